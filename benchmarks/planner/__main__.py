"""`auto` against plain decoding and fixed cascades; see `auto.py`."""

from benchmarks.measure.process import guarded
from benchmarks.planner.auto import main

guarded(main)
