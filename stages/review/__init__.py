"""For people who want to look: contact sheets."""
