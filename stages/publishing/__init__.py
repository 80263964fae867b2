"""What leaves normpipe for other programs."""
