"""What a weight is, and how checkpoints hold it."""
