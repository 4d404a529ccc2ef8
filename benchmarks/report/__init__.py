"""Rows as the tables of documents: `python -m benchmarks.report`."""
