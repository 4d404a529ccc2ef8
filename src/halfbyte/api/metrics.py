"""Counters, gauges and latencies of an `AsyncEngine`, kept on the host and copied on demand."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

# Seconds. First token and whole answer; the time between two tokens of a stream.
LATENCY_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
TOKEN_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


@dataclass(slots=True)
class Histogram:
    """How many observations were at most each bound; the last count is of those above all."""

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)  # len(bounds) + 1
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.bounds) + 1)

    @property
    def count(self) -> int:
        """Observations."""
        return sum(self.counts)

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def copy(self) -> Histogram:
        """A histogram of its own with the same counts."""
        return Histogram(self.bounds, list(self.counts), self.total)


@dataclass(slots=True)
class Snapshot:
    """What an engine has done and holds at one moment. Totals never fall."""

    # Gauges.
    waiting: int = 0
    running: int = 0
    num_pages: int = 0
    free_pages: int = 0  # those that hold nothing but a reusable prefix included
    cached_pages: int = 0  # free, and holding a prefix that a request may reuse
    # Totals.
    requests: int = 0  # accepted
    refused: int = 0  # turned away because the queue was full
    finished: Counter[str] = field(default_factory=Counter)  # by finish reason
    prompt_tokens: int = 0
    cached_tokens: int = 0  # of the prompts, found in the prefix cache
    emitted_tokens: int = 0
    preemptions: int = 0
    steps: int = 0
    target_forwards: int = 0
    draft_forwards: int = 0
    prefill_seconds: float = 0.0
    draft_seconds: float = 0.0
    verify_seconds: float = 0.0
    host_seconds: float = 0.0
    proposed_by_position: list[int] = field(default_factory=list)
    accepted_by_position: list[int] = field(default_factory=list)
    turns: Counter[tuple[str, int]] = field(default_factory=Counter)  # (cascade, draft length)
    # Seconds.
    queue_time: Histogram = field(default_factory=lambda: Histogram(LATENCY_BOUNDS))
    time_to_first_token: Histogram = field(default_factory=lambda: Histogram(LATENCY_BOUNDS))
    time_between_tokens: Histogram = field(default_factory=lambda: Histogram(TOKEN_BOUNDS))
    request_time: Histogram = field(default_factory=lambda: Histogram(LATENCY_BOUNDS))
