"""Measurements against other engines. Run from the repository root: `python -m benchmarks.compare`."""
