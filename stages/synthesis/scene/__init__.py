"""Everything random about a picture, drawn from a seed before a pixel is rendered."""
