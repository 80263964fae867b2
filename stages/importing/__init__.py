"""Normalized faces that others made: which picture belongs to which original, and their rows."""
