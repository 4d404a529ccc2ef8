"""Measurements against other engines: `python -m benchmarks.compare` from the root."""
