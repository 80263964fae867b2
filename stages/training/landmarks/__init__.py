"""Training of the landmark network of the default detector."""
