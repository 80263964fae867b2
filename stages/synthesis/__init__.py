"""The synthesize command: its settings, the people of a set, and the rendering of its pairs."""
