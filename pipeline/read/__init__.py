"""Reading datasets, for users and for stages."""
