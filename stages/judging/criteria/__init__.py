"""The measures of a normalizer, one module each."""
