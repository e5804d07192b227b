"""Training: one loop, and one loss a file."""
