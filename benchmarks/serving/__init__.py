"""Our server beside llama.cpp's: `python -m benchmarks.serving`."""
