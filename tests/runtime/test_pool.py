"""The pool's threads meet, and none sleeps for ever: C++ programs over csrc/host, compiled here."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HANG_SECONDS = 240  # every case takes seconds
THREADS = (2, 3, 5)  # fewer, as many and more than cores, on most machines that run this

Run = Callable[..., str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Compiles a program of tests/runtime/native on first use, runs it, returns what it prints."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    built: dict[str, Path] = {}
    directory = tmp_path_factory.mktemp("native")

    def build(name: str) -> Path:
        program = directory / name
        sources = [ROOT / "tests/runtime/native" / f"{name}.cpp"]
        sources += [ROOT / "csrc/host" / f"{part}.cpp" for part in ("fork", "gate", "pool")]
        flags = ["-std=c++20", "-O2", "-pthread", f"-I{ROOT / 'csrc'}"]
        flags += shlex.split(os.environ.get("CXXFLAGS", ""))
        command = [*shlex.split(compiler), *flags, *map(str, sources), "-o", str(program)]
        subprocess.run(command, check=True, timeout=HANG_SECONDS)
        return program

    def run(name: str, *arguments: object, seconds: float = HANG_SECONDS) -> str:
        if name not in built:
            built[name] = build(name)
        ended = subprocess.run(
            [built[name], *map(str, arguments)], capture_output=True, timeout=seconds
        )
        text = (ended.stdout + ended.stderr).decode()
        assert ended.returncode == 0, text
        return text

    return run


def test_a_sleeper_that_announces_itself_in_time_is_woken(run: Run) -> None:
    text = run("lost_wakeups", 100_000)
    slept = int(text.split(",")[1].split()[0])
    assert slept > 1000, f"the rounds did not come to the point: {text}"


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("spins", [0, 60, 4000])
def test_threads_pass_a_barrier_together(run: Run, threads: int, spins: int) -> None:
    run("pool_stress", threads, spins, 100, 50)


@pytest.mark.parametrize("threads", [1, *THREADS])
@pytest.mark.parametrize("spins", [0, 4000])
def test_what_a_thread_throws_reaches_the_caller(run: Run, threads: int, spins: int) -> None:
    """Out of memory in a thread of the pool ends the call, neither the program nor its threads."""
    run("pool_throws", threads, spins, 100, 20)


@pytest.mark.slow
@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("spins", [0, 60])
def test_millions_of_barriers_end(run: Run, threads: int, spins: int) -> None:
    run("pool_stress", threads, spins, 20_000, 100, seconds=1800)


@pytest.mark.slow
def test_a_sleeper_is_woken_in_millions_of_rounds(run: Run) -> None:
    run("lost_wakeups", 5_000_000, seconds=1800)
