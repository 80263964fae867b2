"""Renders faces from a face kit: a scene drawn from a seed, then pixels and exact labels."""
