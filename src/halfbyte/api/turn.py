"""Threads take turns at a model: its KV pool, its runtime and what its planners learn."""

from __future__ import annotations

import os
import threading
from contextlib import AbstractContextManager

from halfbyte.errors import StoppedError


class Turn:
    """The lock that a thread holds while it uses a model; it may take it more than once.

    A child of `fork` has it free. If another thread of the parent held it at the fork, what it
    guards was left in the middle of a change: the child may not use that, and is told so.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._process = os.getpid()
        self._lost = False

    def lock(self) -> AbstractContextManager[bool]:
        """For `with` alone: Python lets no Ctrl-C come between its `__enter__` and the block."""
        if os.getpid() != self._process:
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
        return self._lock
