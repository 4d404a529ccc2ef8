"""Quality scheme by scheme; see `schemes.py`."""

from benchmarks.measure.process import guarded
from benchmarks.quality.schemes import main

guarded(main)
