"""Faces in pictures: finding them, their geometry, their pixels, and drawing them."""
