"""Run an unreviewed Python program: in a process of its own, fenced in by the kernel.

That process is this file run as a script, with no more than the standard library. It sets up its
fences before the program runs: no network, no other processes, no signals (seccomp); files only in
an empty directory, and Python's own for reading (Landlock); limits on memory, time and files.
Standard input, output and error lead nowhere. Where the kernel lacks a fence nothing runs. A
program that wants to can forge its verdict; it cannot do harm.

The script's first line of input is `TOKEN FD SECONDS MEMORY FILE`, the rest is the program; the
verdict goes to FD. System call numbers are those of x86-64:
linux/arch/x86/entry/syscalls/syscall_64.tbl; landlock(7), seccomp(2).
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import secrets
import struct
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

GUARD = Path(__file__)
# What a program that computes needs; anything else fails with EPERM. Paths are Landlock's matter.
_ALLOWED = (
    *range(22),  # read, write, open, close, stats, poll, lseek, mmap and kin, signals, access
    *(24, 25, 26, 28, 32, 33, 35, 36, 37, 38, 39),  # yield, mremap, madvise, dup, sleep, timers
    *(60, 63, 72, 73, 74, 77, 78, 79, 80),  # exit, uname, fcntl, flock, fsync, getdents, chdir
    *(82, 83, 84, 85, 86, 87, 88, 89),  # rename, mkdir, rmdir, creat, link, unlink, readlink
    *(96, 97, 98, 99, 100, 102, 104, 107, 108, 110, 111),  # times, getrlimit, usage, ids
    *(127, 128, 131, 137, 138, 186, 201, 202, 204),  # signals, statfs, time, futex, affinity
    *(217, 218, 228, 229, 230, 231),  # getdents64, set_tid_address, clocks, exit_group
    *(257, 258, 262, 263, 264, 265, 266, 267, 269),  # openat and kin
    *(270, 273, 281, 290, 291, 292, 293),  # select, robust list, epoll, eventfd, dup3, pipe2
    *(318, 332, 334, 439),  # getrandom, statx, rseq, faccessat2
)
_AUDIT_ARCH_X86_64 = 0xC000003E
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050001, 0x80000000  # refuse: EPERM
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 22, 38
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_READ = 1 << 2 | 1 << 3  # files and directories
_READABLE = ("/usr/lib", "/usr/local/lib", "/lib", "/lib64", "/etc/localtime")
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
        from halfbyte.errors import HalfbyteError

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
    head = f"{token} {writing} " + " ".join(str(value) for value in values.values())
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-X", "utf8", str(GUARD)],
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


def _main() -> None:
    """The fenced process: fence, run, tell."""
    head, _, program = sys.stdin.buffer.read().decode("utf-8", "surrogatepass").partition("\n")
    token, channel, *numbers = head.split()
    sys.setrecursionlimit(10_000)
    try:
        _fence(*(int(number) for number in numbers))
    except OSError as error:
        os.write(int(channel), f"unfenced {error}".encode())
        return
    try:
        exec(compile(program, "program", "exec"), {"__name__": "__main__"})
        verdict = "passed"
    except BaseException as error:  # whatever a program can raise is its failure
        verdict = f"failed: {type(error).__name__}"
    os.write(int(channel), f"{token} {verdict}".encode())
    os._exit(0)  # threads, finalizers and open files of the program do not matter


def _fence(seconds: int, memory_bytes: int, file_bytes: int) -> None:
    """Raises OSError where the kernel or the machine cannot do it."""
    if platform.machine() != "x86_64" or sys.platform != "linux":
        raise OSError(f"{sys.platform} on {platform.machine()}")
    for limit, value in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))
    libc = ctypes.CDLL(None, use_errno=True)
    _checked(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    _restrict_files(libc)
    _restrict_calls(libc)


def _restrict_files(libc: ctypes.CDLL) -> None:
    version = _checked(libc.syscall(_CREATE_RULESET, None, 0, 1), "no Landlock")
    # Rights grew with versions: 13 at first, then moving, truncating, device commands.
    every = (1 << (13, 14, 15, 15, 16)[min(version, 5) - 1]) - 1
    attributes = struct.pack("<Q", every)
    rules = _checked(libc.syscall(_CREATE_RULESET, attributes, 8, 0), "Landlock rules")
    readable = [os.path.dirname(os.__file__), sys.base_prefix, *_READABLE]
    for path, rights in [(".", every), *((path, _READ) for path in readable)]:
        if not os.path.exists(path):
            continue
        rights = rights if os.path.isdir(path) else rights & 1 << 2
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = struct.pack("<Qi", rights, opened)
        _checked(libc.syscall(_ADD_RULE, rules, 1, rule, 0), f"Landlock rule for {path}")
        os.close(opened)
    _checked(libc.syscall(_RESTRICT_SELF, rules, 0), "Landlock")
    os.close(rules)


def _restrict_calls(libc: ctypes.CDLL) -> None:
    """A filter of classic BPF: this machine's calls only, and of those the allowed ones.

    load arch · is it x86-64? else kill · load number · allowed? to the end · refuse · allow
    """
    load, equal, give = 0x20, 0x15, 0x06
    code = [(load, 0, 0, 4), (equal, 1, 0, _AUDIT_ARCH_X86_64), (give, 0, 0, _KILL)]
    code.append((load, 0, 0, 0))
    for i, number in enumerate(_ALLOWED):
        code.append((equal, len(_ALLOWED) - i, 0, number))
    code += [(give, 0, 0, _REFUSE), (give, 0, 0, _ALLOW)]
    program = b"".join(struct.pack("<HBBI", *line) for line in code)
    buffer = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("<HxxxxxxQ", len(code), ctypes.addressof(buffer))
    _checked(libc.prctl(_PR_SET_SECCOMP, 2, head, 0, 0), "seccomp")


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(f"{what}: {os.strerror(number)}")
    return result


if __name__ == "__main__":
    _main()
