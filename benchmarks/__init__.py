"""Measurements against other engines: `python -m benchmarks.decoding.compare` from the root."""
