"""The tables of documents; see `tables.py`."""

from benchmarks.measure.process import guarded
from benchmarks.report.tables import main

guarded(main)
