"""Which stage proposes, which verifies: the cascade string, the cycle, its statistics."""
