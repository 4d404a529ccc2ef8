"""Who proposes, who verifies: the cascade string, the cycle, its statistics."""
