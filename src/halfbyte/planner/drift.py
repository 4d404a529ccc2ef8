"""How much longer things take than the cost table says, learned while decoding.

The table was measured in a quiet second; a running engine shares caches and cores. A slow machine
slows everything alike, and must not make the planner prefer what it has not tried lately: what all
verifies have in common is kept apart, and choices depend on the rest. Keys below 0 are verifies,
others are arms (`forecast.verify_key`).

Where nearly all verifies have one key, a surprise is the machine's; where a key is rare, it is the
key's own. So the common factor learns by a key's share of the verifies, its own by the others'.
"""

from __future__ import annotations

from math import exp, log

COMMON_RATE = 1 / 16
OWN_RATE = 1 / 32
OWN_START = 4  # observations that the table itself is worth
SHARE_FADE = 1 / 64  # of a verify's share, each time
LARGEST_STEP = 0.3  # in log time: one interrupted call says little
LARGEST_BIAS = 1.5
LARGEST_WEIGHT = 1e30


class Drift:
    """Factors on predicted seconds, by an integer key."""

    def __init__(self) -> None:
        self._common = 0.0
        self._verifies = 0
        self._biases: dict[int, float] = {}
        self._factors: dict[int, float] = {}
        self._counts: dict[int, int] = {}
        self._seen: dict[int, int] = {}  # step of the last observation
        self._nearest: dict[int, int] = {}  # of verifies never seen
        self._shares: dict[int, float] = {}  # of verifies, in units that grow by `SHARE_FADE`
        self._all_shares = 0.0
        self._unit = 1.0

    @property
    def common(self) -> float:
        """Measured over predicted, what all verifies have in common."""
        return exp(self._common)

    def factor(self, key: int) -> float:
        """Measured over predicted, beyond what is common; unseen verifies: a neighbour's."""
        found = self._factors.get(key)
        if found is None:
            if key >= 0 or not self._shares:
                return 1.0
            if key not in self._nearest:
                self._nearest[key] = min(self._shares, key=lambda seen: (abs(seen - key), seen))
            found = self._factors.get(self._nearest[key], 1.0)
        return found

    def observe(self, key: int, measured: float, predicted: float, step: int) -> None:
        """A call took `measured` seconds where the table says `predicted`."""
        if not (measured > 0.0 and predicted > 0.0):
            return
        known = self._biases.get(key)
        bias = self._known(key) if known is None else known
        surprise = log(measured / predicted) - self._common - bias
        surprise = min(max(surprise, -LARGEST_STEP), LARGEST_STEP)
        own = 1.0
        if key < 0:
            if key not in self._shares:
                self._nearest.clear()
            share = self._share(key)
            self._verifies += 1
            rate = max(1.0 / self._verifies, COMMON_RATE) * share
            self._common = _bounded(self._common + rate * surprise)
            own = 1.0 - share
        count = self._counts.get(key, 0) + 1
        rate = max(1.0 / (count + OWN_START), OWN_RATE) * own
        self._biases[key] = bias = _bounded(bias + rate * surprise)
        self._factors[key] = exp(bias)
        self._counts[key] = count
        self._seen[key] = step

    def age(self, key: int, step: int) -> int:
        """Steps since the key was last observed; all of them if never."""
        return step - self._seen.get(key, 0)

    def _known(self, key: int) -> float:
        """The bias that a key starts with."""
        return log(self.factor(key))

    def _share(self, key: int) -> float:
        """Count a verify; its key's share of the last ones."""
        self._shares[key] = self._shares.get(key, 0.0) + self._unit
        self._all_shares += self._unit
        share = self._shares[key] / self._all_shares
        self._unit *= 1.0 + SHARE_FADE
        if self._unit > LARGEST_WEIGHT:
            self._shares = {k: n / self._unit for k, n in self._shares.items()}
            self._all_shares /= self._unit
            self._unit = 1.0
        return share


def _bounded(bias: float) -> float:
    return min(max(bias, -LARGEST_BIAS), LARGEST_BIAS)
