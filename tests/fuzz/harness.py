"""Fuzzing led by coverage, in a process of its own: python -m tests.fuzz.harness TARGET SECONDS.

Inputs that reach a line none reached before are kept and changed further. An input fails if it
raises anything but a HalfbyteError of one line, warns, takes longer than HANG_SECONDS, or makes the
process grow past MAX_GROWTH; a crash fails by the exit status. What fails is left in OUT for a look
and, once repaired, goes to tests/data/fuzz/TARGET.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import json
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import halfbyte
from halfbyte.errors import HalfbyteError
from tests.fuzz.corpus import read_corpus, write_files
from tests.fuzz.mutate import Files, changed
from tests.fuzz.targets import TARGETS

HANG_SECONDS = 20  # the machine may be busy; a tiny input takes milliseconds
MAX_GROWTH = 96 << 20  # of the whole run, past its first inputs
MAX_MEMORY = 3 << 30  # of address space, past what is mapped at the start
WARM_UP = 300  # inputs before growth counts
KEPT = 400  # inputs that reached something new
_SOURCES = tuple(
    str(Path(halfbyte.__file__).parent / room)
    for room in ("importers", "formats", "config", "text")
)


class Hang(BaseException):
    """No `except Exception` of the code under test may take it."""


def fuzz(target: str, seconds: float, out: Path, seed: int = 0) -> dict[str, Any]:
    """Run a target; the first input that fails is written to `out`."""
    rng = random.Random(seed)
    corpus = list(read_corpus(target).values())
    seen: set[tuple[str, int]] = set()
    run = TARGETS[target]
    ends, count, grown, first = time.monotonic() + seconds, 0, 0, 0
    (out / "last").mkdir(parents=True, exist_ok=True)
    with _limits(), tempfile.TemporaryDirectory(dir=_memory_disk()) as scratch:
        for files in corpus:
            _tried(run, files, Path(scratch), out, seen)
        while time.monotonic() < ends:
            files = changed(rng, rng.choice(corpus), corpus)
            fault, is_new = _tried(run, files, Path(scratch), out, seen)
            count += 1
            if fault:
                return {"inputs": count, "fault": fault, "lines": len(seen)}
            if is_new:
                corpus.append(files)
                if len(corpus) > KEPT:
                    corpus.pop(rng.randrange(KEPT // 2, KEPT))
            if count == WARM_UP:
                first = _resident()
            elif first and count % 100 == 0:
                gc.collect()
                grown = _resident() - first
                if grown > MAX_GROWTH:
                    return {"inputs": count, "fault": f"grew by {grown >> 20} MiB", "lines": 0}
    return {"inputs": count, "fault": "", "lines": len(seen), "grown_mib": grown >> 20}


def check(target: str, files: Files, scratch: Path) -> str:
    """What is wrong with one input; nothing: an empty string."""
    with _limits():
        return _fault(TARGETS[target], files, scratch)


def _tried(
    run: Callable[[Path], None],
    files: Files,
    scratch: Path,
    out: Path,
    seen: set[tuple[str, int]],
) -> tuple[str, bool]:
    write_files(out / "last", files)  # what a crash leaves behind
    before = len(seen)
    with _traced(seen):
        fault = _fault(run, files, scratch)
    if fault:
        write_files(out / "fault", files)
    return fault, len(seen) > before


def _fault(run: Callable[[Path], None], files: Files, scratch: Path) -> str:
    place = scratch / "input"
    write_files(place, files)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            signal.setitimer(signal.ITIMER_REAL, HANG_SECONDS)
            run(place)
    except HalfbyteError as error:
        lines = str(error).splitlines()
        return "" if len(lines) == 1 else f"a message of {len(lines)} lines: {error}"
    except Hang:
        return f"longer than {HANG_SECONDS} s: {traceback.format_exc(limit=-3)}"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"{type(error).__name__}: {error}\n{traceback.format_exc(limit=-6)}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return ""


@contextlib.contextmanager
def _traced(seen: set[tuple[str, int]]) -> Iterator[None]:
    """Adds every line of the code under test that runs."""

    def line(frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            seen.add((frame.f_code.co_filename, frame.f_lineno))
        return line

    def call(frame: FrameType, event: str, argument: Any) -> Any:
        return line if frame.f_code.co_filename.startswith(_SOURCES) else None

    sys.settrace(call)
    try:
        yield
    finally:
        sys.settrace(None)


@contextlib.contextmanager
def _limits() -> Iterator[None]:
    def ring(number: int, frame: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    mapped = pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MAX_MEMORY, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGALRM, before)


def _memory_disk() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main() -> None:
    """TARGET SECONDS OUT [SEED]; prints one JSON object."""
    faulthandler.enable()
    target, seconds, out = sys.argv[1], float(sys.argv[2]), Path(sys.argv[3])
    seed = int(sys.argv[4]) if len(sys.argv) > 4 else 0
    print(json.dumps(fuzz(target, seconds, out, seed)))


if __name__ == "__main__":
    main()
