"""Looking after a job's folder: check, free, withdraw, estimate."""
