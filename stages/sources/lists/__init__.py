"""Lists of faces: what their columns and cells mean."""
