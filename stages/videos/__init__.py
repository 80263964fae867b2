"""Videos: their frames counted, decoded in processes of their own, and read in order."""
