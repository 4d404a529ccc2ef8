"""Calibration text of two kinds in turns: a given text, and code of Python's standard library.

    python -m benchmarks.quality.calibration_text c4.txt DEST

Models that write code read code: calibrated on web text alone, they lose most there
(docs/quantize.md). The library is that of the Python that runs this, so versions differ slightly.
"""

from __future__ import annotations

import argparse
import sysconfig
from itertools import chain
from pathlib import Path

from benchmarks.measure.process import guarded

_TURN = 2000  # characters
_TURNS = 60
_MODULES = (
    *("heapq", "bisect", "textwrap", "statistics", "fractions", "string", "random", "shlex"),
    *("difflib", "collections/__init__", "functools", "calendar", "fnmatch", "csv"),
)


def in_turns(text: str, code: str) -> str:
    """Pieces of one and the other, `_TURNS` of each."""
    pieces = ((each[i * _TURN : (i + 1) * _TURN] for each in (text, code)) for i in range(_TURNS))
    return "".join(f"{piece}\n\n" for piece in chain.from_iterable(pieces))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("text", type=Path)
    parser.add_argument("dest", type=Path)
    arguments = parser.parse_args()
    library = Path(sysconfig.get_path("stdlib"))
    code = "".join((library / f"{m}.py").read_text(encoding="utf-8") + "\n\n" for m in _MODULES)
    made = in_turns(arguments.text.read_text(encoding="utf-8"), code)
    arguments.dest.write_text(made, encoding="utf-8")
    print(f"{arguments.dest}: {len(made)} characters")


if __name__ == "__main__":
    guarded(main)
