"""Training of normalizers: data, losses, schedule, scores."""
