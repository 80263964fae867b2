"""Standard metrics of the field (see ``docs/protocols.md``): arrays in, numbers out."""
