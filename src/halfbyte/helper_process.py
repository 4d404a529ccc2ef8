"""A process for work that nothing here can bound or interrupt: started, asked, ended, replaced.

Chat templates run in one (text/template_worker.py), grammars are tried in one
(sampling/grammar_worker.py). Requests and replies carry numbers, and a process that has been asked
serves no other request until its reply has been read: whatever interrupts a caller, no later one
gets the prompt of an earlier one.
"""

from __future__ import annotations

import itertools
import json
import os
import select
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

from halfbyte.errors import MachineError, reraise_machine_fault, told
from halfbyte.helper_worker import HEAD

START_SECONDS = 60.0  # Python and a library, on a busy machine
MAX_REPLY_BYTES = 1 << 27  # a text at the worker's limit, every character escaped
# The worker gets no other variable: the environment may hold keys.
PASSED = ("PATH", "LD_LIBRARY_PATH", "PYTHONHOME", "TZ", "LANG", "LC_ALL", "LC_CTYPE", "LC_TIME")


class _LateError(Exception):
    """No reply came in time, or the process has used what it had of a processor's."""


class _GoneError(Exception):
    """The process has ended, or does not keep to the protocol."""


class HelperProcess:
    """Does one request at a time; from any thread, in a forked child too."""

    def __init__(self, script: Path, purpose: str, first: Mapping[str, Any]) -> None:
        """`script`: what it runs. `first`: the request by which a new process is made ready."""
        self._script, self._purpose = script, purpose
        self._first = json.dumps(first).encode()
        self._lock = threading.Lock()
        self._idle: _Worker | None = None  # loaded, and owing no reply
        _processes.add(self)

    def load(self) -> dict[str, Any]:
        """Make a new process ready: its {"names"}, or {"fault"}."""
        return self._answer(self._load, START_SECONDS)

    def ask(self, request: bytes, seconds: float) -> dict[str, Any]:
        """{"text"}, {"refused"} or {"fault"}; MachineError where no process can be had."""
        return self._answer(lambda: self._render(request, seconds), seconds)

    def _answer(self, work: Callable[[], dict[str, Any]], seconds: float) -> dict[str, Any]:
        with self._lock:
            try:
                try:
                    return work()
                except _GoneError:  # ended by another's hand, most likely while idle: a new one
                    return work()
            except _LateError as error:
                return {"fault": str(error) or f"it took over {seconds:g} s"}
            except _GoneError:
                return {"fault": "its process ended: it takes too much memory, or nests too deep"}

    def _load(self) -> dict[str, Any]:
        with _Worker(self._script, self._purpose) as worker:
            loaded = worker.ask(self._first, START_SECONDS)
        self._idle = worker if "fault" not in loaded else None
        return loaded

    def _render(self, request: bytes, seconds: float) -> dict[str, Any]:
        if self._idle is None or self._idle.has_ended:
            loaded = self._load()
            if self._idle is None:
                return loaded
        worker, self._idle = self._idle, None  # out of reach until its reply has been read
        with worker:
            answer = worker.ask(request, seconds)
        self._idle = worker
        return answer

    def forget(self) -> None:
        """In a forked child: the process is the parent's; a lost thread may hold the lock."""
        self._lock = threading.Lock()
        self._idle = None


class _Worker:
    """One process; it ends with this object, or when its stdin closes."""

    def __init__(self, script: Path, purpose: str) -> None:
        passed = {name: os.environ[name] for name in PASSED if name in os.environ}
        passed["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(script)],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=passed,
                cwd="/",
                start_new_session=True,  # Ctrl-C is for us
            )
        except OSError as error:
            what = f"process for {purpose}"
            reraise_machine_fault(what, error)
            raise MachineError(
                what,
                got=told(error),
                expected="a process",
                fix=f"see that {sys.executable} can be started",
            ) from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin.fileno(), self._process.stdout.fileno()
        for pipe in (self._to, self._from):
            os.set_blocking(pipe, False)
        self._numbers = itertools.count(1)
        self.end = weakref.finalize(self, _end, self._process)
        _workers.add(self)

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Whatever went wrong, Ctrl-C too: a reply may be left unread."""
        if kind is not None:
            self.end()

    @property
    def has_ended(self) -> bool:
        """Whether the process is known to be gone."""
        return self._process.poll() is not None

    def ask(self, request: bytes, seconds: float) -> dict[str, Any]:
        """The reply to this request; raises _LateError or _GoneError."""
        end, number = monotonic() + seconds, next(self._numbers)
        try:
            _write(self._to, HEAD.pack(len(request), number) + request, end)
            size, answered = HEAD.unpack(_read(self._from, HEAD.size, end))
        except _GoneError as error:
            with suppress(subprocess.TimeoutExpired):
                if self._process.wait(1) == -signal.SIGXCPU:
                    raise _LateError("it took too long") from error
            raise
        if answered != number or size > MAX_REPLY_BYTES:
            raise _GoneError
        return _parsed(_read(self._from, size, end))

    def leave(self) -> None:
        """In a forked child: close its ends of the pipes, for the process ends with its parent."""
        self.end.detach()
        self._process.returncode = 0  # it is no child of this process: nothing to wait for
        _close(self._process)


_processes: weakref.WeakSet[HelperProcess] = weakref.WeakSet()
_workers: weakref.WeakSet[_Worker] = weakref.WeakSet()


def _after_fork() -> None:
    """Parent and child would else write to one process and read each other's prompts."""
    for process in list(_processes):
        process.forget()
    for worker in list(_workers):
        worker.leave()
    _workers.clear()


os.register_at_fork(after_in_child=_after_fork)


def _write(target: int, data: bytes, end: float) -> None:
    poll, sent = select.poll(), 0
    poll.register(target, select.POLLOUT)
    while sent < len(data):
        if not poll.poll(max(0.0, end - monotonic()) * 1000):
            raise _LateError
        try:
            sent += os.write(target, data[sent : sent + (1 << 16)])
        except OSError as error:
            raise _GoneError from error


def _read(source: int, size: int, end: float) -> bytes:
    data, poll = bytearray(), select.poll()
    poll.register(source, select.POLLIN | select.POLLHUP)
    while len(data) < size:
        if not poll.poll(max(0.0, end - monotonic()) * 1000):
            raise _LateError
        piece = os.read(source, min(size - len(data), 1 << 16))
        if not piece:
            raise _GoneError
        data += piece
    return bytes(data)


def _parsed(body: bytes) -> dict[str, Any]:
    """What strangers wrote may have left its sandbox: what the process says is checked as well."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _GoneError from error
    if not isinstance(answer, dict) or not {"names", "text", "refused", "fault"} & answer.keys():
        raise _GoneError
    return answer


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    _close(process)


def _close(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
