"""Maintenance of a job's folder: verify, status, clean, withdraw, estimate."""
