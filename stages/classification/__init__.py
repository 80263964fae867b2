"""Training, scoring and using classifiers, beyond the stage ``classify``."""
