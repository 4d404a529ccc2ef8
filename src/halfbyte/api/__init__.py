"""What a Python program calls: `LLM`, `AsyncEngine`, requests, results, loading."""
