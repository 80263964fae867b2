"""Weights on disk: the only modules of networks that open files."""
