"""The tables of documents; see `documents.py`."""

from benchmarks.measure.process import guarded
from benchmarks.report.documents import main

guarded(main)
