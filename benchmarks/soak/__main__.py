"""A server under thousands of mixed requests; see `check.py`."""

from benchmarks.measure.process import guarded
from benchmarks.soak.check import main

guarded(main)
