"""Thousands of mixed requests to a server: `python -m benchmarks.soak`."""
