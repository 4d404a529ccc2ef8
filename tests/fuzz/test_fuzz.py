"""Files of strangers, changed at random: no crash, hang, traceback, warning or growth."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.corpus import read_corpus, write_files
from tests.fuzz.harness import check
from tests.fuzz.make_corpus import SEEDS
from tests.fuzz.targets import TARGETS

SECONDS = float(os.environ.get("HALFBYTE_FUZZ_SECONDS", "300"))
SEED = os.environ.get("HALFBYTE_FUZZ_SEED", "0")
INPUTS = [(target, name) for target in TARGETS for name in read_corpus(target)]


@pytest.mark.parametrize(("target", "name"), INPUTS)
def test_every_input_kept_is_read_or_refused_in_one_line(
    tmp_path: Path, target: str, name: str
) -> None:
    assert check(target, read_corpus(target)[name], tmp_path) == ""


@pytest.mark.parametrize(("target", "name"), [(t, n) for t, seeds in SEEDS.items() for n in seeds])
def test_every_seed_is_a_whole_model(tmp_path: Path, target: str, name: str) -> None:
    """What cannot be opened to begin with is not changed into anything deep."""
    write_files(tmp_path / "input", read_corpus(target)[name])
    TARGETS[target](tmp_path / "input")


def test_the_harness_sees_a_traceback_a_warning_and_a_second_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import warnings

    def fail(path: Path) -> None:
        if path.joinpath("warn").exists():
            warnings.warn("numpy said so", RuntimeWarning, stacklevel=1)
        else:
            raise KeyError("ours")

    monkeypatch.setitem(TARGETS, "bad", fail)
    assert "KeyError" in check("bad", {}, tmp_path)
    assert "numpy said so" in check("bad", {"warn": b""}, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_random_changes(tmp_path: Path, target: str) -> None:
    """HALFBYTE_FUZZ_SECONDS each, 300 by default; another HALFBYTE_FUZZ_SEED, other inputs."""
    command = [sys.executable, "-m", "tests.fuzz.harness", target, str(SECONDS), str(tmp_path)]
    done = subprocess.run(
        [*command, SEED],
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS + 300,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, f"{done.stderr[-2000:]}\nthe input: {tmp_path / 'last'}"
    result = json.loads(done.stdout)
    assert result["fault"] == "", f"{result['fault']}\nthe input: {tmp_path / 'fault'}"
    assert result["inputs"] > 0
