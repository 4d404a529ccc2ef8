"""What `auto` decides on recorded texts, without noise: `python -m benchmarks.replay`."""
