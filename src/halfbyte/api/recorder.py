"""Keeps the numbers of an `AsyncEngine`: the worker writes, any thread reads a copy."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import fields, replace
from typing import Any

from halfbyte.api.metrics import Histogram, Snapshot
from halfbyte.cascade.statistics import Agreement, Statistics


class Recorder:
    """One lock around a `Snapshot`; it is held for microseconds, never during a forward."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = Snapshot()
        self._outcomes: dict[tuple[int, int], int] = {}

    def accepted(self, prompt_tokens: int) -> None:
        """A request entered the queue."""
        with self._lock:
            self._now.requests += 1
            self._now.prompt_tokens += prompt_tokens
            self._now.waiting += 1

    def refused(self) -> None:
        """A request was turned away."""
        with self._lock:
            self._now.refused += 1

    def started(self, seconds: float) -> None:
        """A request left the queue, `seconds` after it came."""
        with self._lock:
            self._now.queue_time.observe(seconds)

    def first_tokens(self, count: int, seconds: float) -> None:
        """A request got its first tokens, `seconds` after it came."""
        with self._lock:
            self._now.emitted_tokens += count
            self._now.time_to_first_token.observe(seconds)

    def more_tokens(self, count: int, seconds: float) -> None:
        """A request got `count` tokens, `seconds` after the ones before."""
        with self._lock:
            self._now.emitted_tokens += count
            self._now.time_between_tokens.observe(seconds / count, count)

    def finished(self, reason: str, seconds: float) -> None:
        """A request ended, `seconds` after it came."""
        with self._lock:
            self._now.finished[reason] += 1
            self._now.request_time.observe(seconds)

    def stepped(self, total: Statistics, turns: Counter[tuple[str, int]]) -> None:
        """The engine has made a step; `total` is everything it has done."""
        with self._lock:
            self._now.steps += 1
            self._now.turns.update(turns)
            self._outcomes = dict(total.outcomes)
            for name in _TOTALS:
                setattr(self._now, name, getattr(total, name))

    def gauges(self, **values: int) -> None:
        """Set gauges by name."""
        with self._lock:
            for name, value in values.items():
                setattr(self._now, name, value)

    def snapshot(self) -> Snapshot:
        """A copy that nothing changes any more."""
        with self._lock:
            copied = {f.name: _copy(getattr(self._now, f.name)) for f in fields(Snapshot)}
            seen = Agreement(Counter(self._outcomes))
        return replace(
            Snapshot(**copied),
            proposed_by_position=seen.proposed_by_position,
            accepted_by_position=seen.accepted_by_position,
        )


_TOTALS = (
    "cached_tokens",
    "target_forwards",
    "draft_forwards",
    "prefill_seconds",
    "draft_seconds",
    "verify_seconds",
    "host_seconds",
)


def _copy(value: Any) -> Any:
    return value.copy() if isinstance(value, Counter | Histogram | list) else value
