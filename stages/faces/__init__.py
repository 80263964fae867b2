"""Faces in pictures: detection, geometry, decoding and encoding."""
