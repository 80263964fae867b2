"""What a normalizer is judged by, a module for each measure."""
