"""What ``synthesize`` needs: settings, who plays in a set, and the rendering of its pairs."""
