"""Weights on disk; the only network modules that open files."""
