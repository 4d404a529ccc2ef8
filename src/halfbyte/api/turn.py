"""Threads take turns at a model: its KV pool, its runtime and what its planners learn."""

from __future__ import annotations

import os
import threading
from contextlib import AbstractContextManager
from typing import Any, cast

from halfbyte.errors import StoppedError


class Turn:
    """The lock that a thread holds while it uses a model; it may take it more than once.

    A thread that comes back for its next turn stands behind those that wait: each waits first for
    the one before it to have got the lock. (Of a lock alone, whoever lets go and asks again at once
    has it again, and an engine under load does so for ever.)

    A child of `fork` has it free. If another thread of the parent held it at the fork, what it
    guards was left in the middle of a change: the child may not use that, and is told so.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._process = os.getpid()
        self._lost = False
        self._begin_queue()
        # Left by the lock's own `__exit__`, which no Ctrl-C can come before; one of Python's own
        # functions begins with a look for signals, and the lock would stay taken.
        kind = type("_InTurn", (), {"__enter__": self._enter, "__exit__": self._lock.__exit__})
        self._in_turn = cast("AbstractContextManager[bool]", kind())

    def lock(self) -> AbstractContextManager[bool]:
        """For `with` alone: Python lets no Ctrl-C come between its `__enter__` and the block."""
        if os.getpid() != self._process:
            self._begin_queue()
            self._lost = not self._lock.acquire(blocking=False)
            if not self._lost:
                self._lock.release()
            self._process = os.getpid()
        if self._lost:
            raise StoppedError(
                "model",
                got="a fork while another thread used it",
                expected="a fork between requests",
                fix="load the model in the child",
            )
        return self._lock if _is_held(self._lock) else self._in_turn

    def _begin_queue(self) -> None:
        self._swap = threading.Lock()
        self._last = threading.Lock()  # of the last to come: free once it has got its turn

    def _enter(self) -> bool:
        passed = threading.Lock()
        passed.acquire()
        try:
            try:
                with self._swap:
                    before, self._last = self._last, passed
                with before:
                    pass
                self._lock.acquire()
            finally:
                passed.release()
        except BaseException:  # Ctrl-C: it may have come with the lock or without
            if _is_held(self._lock):
                self._lock.release()
            raise
        return True


def _is_held(lock: Any) -> bool:
    """By this thread, which `threading.Condition` asks in the same way."""
    return bool(lock._is_owned())
