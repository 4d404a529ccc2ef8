"""Grammars of strangers: followed or refused in one line, in time; no crash, no hang, no growth."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fuzz.grammar_target import KINDS, LONGEST_SECONDS
from tests.fuzz.http_inputs import FIRST, SECONDS

pytestmark = pytest.mark.slow
START_SECONDS = 60.0


@pytest.mark.parametrize("kind", KINDS)
def test_grammars(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("llguidance")
    note, log = tmp_path / "seed", tmp_path / "log"
    command = [sys.executable, "-m", "tests.fuzz.grammar_target", kind, str(SECONDS), str(FIRST)]
    with (
        log.open("wb") as sink,
        subprocess.Popen([*command, str(note)], stdout=sink, stderr=subprocess.STDOUT) as process,
    ):
        try:
            _watch(process, note)
        finally:
            process.kill()
    said = log.read_text(encoding="utf-8", errors="replace")
    assert process.returncode == 0, f"seed {_seed(note)}: {said[-3000:]}"
    print(said.splitlines()[-1])


def _watch(process: subprocess.Popen[bytes], note: Path) -> None:
    """Wait for its end, and for every input no longer than it may take."""
    seed, since, patience = "", time.monotonic(), START_SECONDS
    while process.poll() is None:
        time.sleep(0.05)
        if _seed(note) != seed:
            seed, since, patience = _seed(note), time.monotonic(), 2 * LONGEST_SECONDS
        assert time.monotonic() - since < patience, f"seed {seed} does not come to its end"


def _seed(note: Path) -> str:
    return note.read_text(encoding="utf-8") if note.exists() else ""
