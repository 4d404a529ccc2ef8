"""Recorded texts on the clock of a cost table; see `decisions.py`."""

from benchmarks.measure.process import guarded
from benchmarks.replay.decisions import main

guarded(main)
