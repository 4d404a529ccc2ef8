"""`auto` against plain decoding and fixed cascades: `python -m benchmarks.planner`."""
