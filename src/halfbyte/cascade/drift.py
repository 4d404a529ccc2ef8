"""How much longer things take than the cost table says, learned while decoding.

The table was measured in a quiet second; a running engine shares caches and cores. A slow machine
slows everything alike, and must not make the planner prefer what it has not tried lately: what all
verifies have in common is kept apart, and choices depend on the rest. Keys below 0 are verifies,
others are arms (`forecast.verify_key`).
"""

from __future__ import annotations

from math import exp, log

COMMON_RATE = 1 / 16
OWN_RATE = 1 / 64
LEAK = 1 / 256
OWN_START = 8  # observations that the table itself is worth
LARGEST_STEP = 0.3  # in log time: one interrupted call says little
LARGEST_BIAS = 1.5


class Drift:
    """Factors on predicted seconds, by an integer key."""

    __slots__ = ("_biases", "_common", "_counts", "_factors", "_seen", "_verifies")

    def __init__(self) -> None:
        self._common = 0.0
        self._verifies = 0
        self._biases: dict[int, float] = {}
        self._factors: dict[int, float] = {}
        self._counts: dict[int, int] = {}
        self._seen: dict[int, int] = {}  # step of the last observation

    @property
    def common(self) -> float:
        """Measured over predicted, what all verifies have in common."""
        return exp(self._common)

    def factor(self, key: int) -> float:
        """Measured over predicted, beyond what is common."""
        return self._factors.get(key, 1.0)

    def observe(self, key: int, measured: float, predicted: float, step: int) -> None:
        """A call took `measured` seconds where the table says `predicted`."""
        if not (measured > 0.0 and predicted > 0.0):
            return
        bias = self._biases.get(key, 0.0)
        surprise = log(measured / predicted) - self._common - bias
        surprise = min(max(surprise, -LARGEST_STEP), LARGEST_STEP)
        if key < 0:
            # What is common comes first; what stays in a verify's own bias goes over to it slowly.
            self._verifies += 1
            step_of_common = max(1.0 / self._verifies, COMMON_RATE) * surprise
            self._common = _bounded(self._common + step_of_common)
            surprise -= step_of_common
            bias *= 1.0 - LEAK
        count = self._counts.get(key, 0) + 1
        rate = max(1.0 / (count + OWN_START), OWN_RATE)
        self._biases[key] = bias = _bounded(bias + rate * surprise)
        self._factors[key] = exp(bias)
        self._counts[key] = count
        self._seen[key] = step

    def age(self, key: int, step: int) -> int:
        """Steps since the key was last observed; all of them if never."""
        return step - self._seen.get(key, 0)


def _bounded(bias: float) -> float:
    return min(max(bias, -LARGEST_BIAS), LARGEST_BIAS)
