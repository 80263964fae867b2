"""Releases of datasets as they lie on disk: described in a file, read into the table of a list."""
