"""Training: one loop, and what watches it."""
