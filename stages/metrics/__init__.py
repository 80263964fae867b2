"""Scores as the field defines them (see ``docs/protocols.md``): arrays in, numbers out."""
