"""Runs one measured process: pinned, with what others took meanwhile on record."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from halfbyte.errors import HalfbyteError, SourceError

TIMEOUT_SECONDS = 1800.0


@dataclass(frozen=True, slots=True)
class Finished:
    """What a process printed, and how disturbed it was."""

    output: str
    seconds: float
    foreign: float  # CPU seconds of other processes per second, on the pinned CPUs


def run(command: Sequence[str], cpus: Sequence[int], environment: Mapping[str, str]) -> Finished:
    """Run to the end on `cpus`; a failure is an error that shows the program's last words."""
    pinned = ["taskset", "-c", ",".join(str(cpu) for cpu in cpus), *command]
    busy, own, started = _busy_seconds(cpus), _children_seconds(), time.monotonic()
    try:
        done = subprocess.run(
            pinned,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **environment},
            timeout=TIMEOUT_SECONDS,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise SourceError(
            command[0], got=str(error), expected="a program that ends", fix="run it by hand"
        ) from error
    seconds = time.monotonic() - started
    foreign = (_busy_seconds(cpus) - busy) - (_children_seconds() - own)
    if done.returncode != 0:
        raise SourceError(
            " ".join(command),
            got=f"status {done.returncode} ({_last_line(done.stderr)})",
            expected="status 0",
            fix="run it by hand",
        )
    return Finished(done.stdout, seconds, max(0.0, foreign / seconds))


def guarded(main: Callable[[], None]) -> None:
    """Call a script's `main`; a user's mistake is one line and status 2."""
    try:
        main()
    except HalfbyteError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"


def _busy_seconds(cpus: Sequence[int]) -> float:
    """Time the CPUs have spent working since boot."""
    ticks = 0
    wanted = {f"cpu{cpu}" for cpu in cpus}
    for line in Path("/proc/stat").read_text(encoding="utf-8").splitlines():
        name, *fields = line.split()
        if name in wanted:
            user, nice, system, _idle, _wait, irq, soft, *_ = map(int, fields)
            ticks += user + nice + system + irq + soft
    return ticks / os.sysconf("SC_CLK_TCK")


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def resident_mib(pid: int) -> float:
    """Resident memory of a process, in MiB; what it shares with others counts in full."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
