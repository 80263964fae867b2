"""normpipe's tools for pictures in memory: what ``import normpipe`` offers beside datasets."""
