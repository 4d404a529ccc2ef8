"""Size is a budget: raising one is a line of a commit that says why."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Lines, blank ones and comments included. Lower a budget whenever the code shrinks well below it.
BUDGETS = {
    "src/halfbyte": 37_000,  # layers as data and the families on it
    "src/halfbyte/planner": 1_200,
    "src/halfbyte/cascade/cycle.py": 220,
    "csrc": 7_500,  # kinds of layers, experts
}
LONGEST_FILE = 600


def _sources(place: str) -> list[Path]:
    path = ROOT / place
    if path.is_file():
        return [path]
    return [p for p in path.rglob("*") if p.suffix in (".py", ".pyi", ".cpp", ".h")]


def _lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("place", BUDGETS)
def test_code_stays_within_its_budget(place: str) -> None:
    lines = sum(_lines(path) for path in _sources(place))
    assert 0 < lines <= BUDGETS[place], f"{place} has {lines} lines"


@pytest.mark.parametrize("place", ["src", "csrc", "benchmarks", "tests"])
def test_no_file_is_too_long_to_read(place: str) -> None:
    longest = max(_sources(place), key=_lines)
    assert _lines(longest) <= LONGEST_FILE, f"{longest} has {_lines(longest)} lines"
