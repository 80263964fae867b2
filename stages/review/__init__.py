"""Contact sheets, for looking at results."""
