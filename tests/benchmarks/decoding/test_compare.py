import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from benchmarks.decoding.compare import compare
from benchmarks.measure.process import run
from benchmarks.peers.contenders import Reading, Task

from halfbyte.errors import SourceError


@dataclass
class Logging:
    """A contender whose process only writes down that it ran."""

    engine: str
    log: Path
    format: str = "f"
    cascade: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)

    def command(self, test: Task) -> Sequence[str]:
        return ["sh", "-c", f"echo {self.engine} | tee -a {self.log}"]

    def read(self, output: str) -> Reading:
        assert output.strip() == self.engine
        return Reading(1.0, "1", 10, {})


def test_contenders_take_turns(tmp_path: Path) -> None:
    log = tmp_path / "log"
    contenders = [Logging("a", log), Logging("b", log)]
    cpus = [min(os.sched_getaffinity(0))]
    rows = compare(contenders, Task("decode", 1), cpus, 3, "m", {})
    assert log.read_text(encoding="utf-8").split() == ["a", "b"] * 3
    assert [(row.engine, row.spread.n) for row in rows] == [("a", 3), ("b", 3)]


def test_a_process_that_fails_shows_its_last_words() -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such model')"]
    with pytest.raises(SourceError, match="no such model"):
        run(command, [min(os.sched_getaffinity(0))], {})
