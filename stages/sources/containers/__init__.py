"""What pictures are in, if not in files of their own: archives, object stores, addresses."""
