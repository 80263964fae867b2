"""Training of networks on synthesized pairs."""
