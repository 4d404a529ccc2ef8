"""Servers at 1 to 32 streams; see `streams.py`."""

from benchmarks.measure.process import guarded
from benchmarks.serving.streams import main

guarded(main)
