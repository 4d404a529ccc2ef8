"""Run a Python program that nobody has read: in a process of its own, fenced in by the kernel.

`sandbox_guard` sets the fences up inside the process before the program runs: no network, no other
processes, no signals (seccomp); files only in an empty directory, and Python's own for reading
(Landlock); limits on memory, time and files. Standard input, output and error lead nowhere. Where
the kernel lacks a fence nothing runs. A program that wants to can forge its verdict; it cannot do
harm.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from halfbyte.errors import HalfbyteError
from halfbyte.evaluate import sandbox_guard

_MAX_VERDICT_BYTES = 1 << 12


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one run."""

    seconds: int = 10  # of CPU; twice as many on the clock
    memory_bytes: int = 1 << 30  # address space
    file_bytes: int = 1 << 20  # of each file written


def run_python(program: str, limits: Limits) -> str:
    """`passed`, `failed: KIND` (what it raised), `timed out`, or `died` (ended some other way).

    Raises HalfbyteError where this system cannot fence it in.
    """
    token = secrets.token_hex(16)
    reading, writing = os.pipe()
    try:
        with tempfile.TemporaryDirectory(prefix="halfbyte-sandbox-") as directory:
            ended = _run(program, limits, token, writing, directory)
        os.close(writing)
        writing = -1
        verdict = os.read(reading, _MAX_VERDICT_BYTES).decode("utf-8", "replace")
    finally:
        os.close(reading)
        if writing >= 0:
            os.close(writing)
    said, _, found = verdict.partition(" ")
    if said == "unfenced":
        raise HalfbyteError(
            "sandbox",
            got=found.strip()[:200],
            expected="Linux on x86-64 with seccomp and Landlock (5.13 or newer)",
            fix="run this task on such a system",
        )
    if not ended:
        return "timed out"
    return found.strip() if said == token else "died"


def _run(program: str, limits: Limits, token: str, writing: int, directory: str) -> bool:
    """Whether the program came to an end by itself."""
    values = asdict(limits)
    head = f"{token} {writing} " + " ".join(str(values[name]) for name in sandbox_guard.LIMITS)
    guard = str(Path(sandbox_guard.__file__))
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-X", "utf8", guard],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(writing,),
        cwd=directory,
        env={},
        start_new_session=True,
    )
    try:
        text = f"{head}\n{program}".encode("utf-8", "surrogatepass")
        process.communicate(text, timeout=2 * limits.seconds)
    except subprocess.TimeoutExpired:
        return False
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    # The CPU limit ends it with SIGXCPU or, if that is ignored, SIGKILL.
    return process.returncode not in (-24, -9)
