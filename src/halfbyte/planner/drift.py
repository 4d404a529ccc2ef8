"""What cycles take beyond the cost table, learned while decoding: slow calls, and the host's time.

The table was measured in a quiet second; a running engine shares caches and cores. What all
verifies have in common is kept apart and changes no choice: a slow machine slows everything alike.
"""

from __future__ import annotations

from math import exp, log

COMMON_RATE = 1 / 16
OWN_RATE = 1 / 32
TABLE_WEIGHT = 4  # observations that the table itself is worth
LARGEST_STEP = 0.3  # in log time: one interrupted call says little
HOST_START, HOST_STEP = 2.5e-4, 1.02


class Drift:
    """Factors on predicted seconds, by key: below 0 a verify of so many rows, else a candidate.

    Where nearly all verifies have one key, a surprise is the machine's; where a key is rare, it is
    the key's own: the common factor learns by a key's share of the verifies, its own by the rest.
    """

    def __init__(self) -> None:
        self._common = 0.0  # log, as all here
        self._own: dict[int, float] = {}
        self._counts: dict[int, int] = {}
        self._shares: dict[int, float] = {}  # of the last verifies, faded counts by key
        self._nearest: dict[int, int] = {}  # of keys not seen, the one that stands for it

    @property
    def common(self) -> float:
        """Measured over predicted, what all verifies have in common."""
        return exp(self._common)

    def factor(self, key: int) -> float:
        """Measured over predicted, beyond what is common; of an unseen verify the nearest's."""
        own = self._own.get(key)
        if own is None and key < 0 and self._shares:
            if key not in self._nearest:
                self._nearest[key] = min(self._shares, key=lambda seen: abs(seen - key))
            own = self._own[self._nearest[key]]
        return exp(own or 0.0)

    def observe(self, key: int, measured: float, predicted: float) -> None:
        """A call took `measured` seconds where the table says `predicted`."""
        if not (measured > 0.0 and predicted > 0.0):
            return
        own = log(self.factor(key))
        surprise = log(measured / predicted) - self._common - own
        surprise = min(max(surprise, -LARGEST_STEP), LARGEST_STEP)
        share = 0.0
        if key < 0:
            for other in self._shares:
                self._shares[other] *= 1 - COMMON_RATE
            if key not in self._shares:
                self._nearest.clear()
            self._shares[key] = self._shares.get(key, 0.0) + 1.0
            seen = sum(self._shares.values())
            share = self._shares[key] / seen
            self._common += share / seen * surprise
        count = self._counts[key] = self._counts.get(key, 0) + 1
        self._own[key] = own + max(OWN_RATE, 1 / (count + TABLE_WEIGHT)) * (1 - share) * surprise


class HostTime:
    """Seconds outside the runtime per cycle: about the median, since prefills and slow readers of a
    stream lie between some cycles."""

    def __init__(self) -> None:
        self._seconds = [HOST_START, HOST_START]

    @property
    def plain(self) -> float:
        """Of a plain cycle."""
        return self._seconds[True]

    @property
    def proposing(self) -> float:
        """Of a cycle with proposals: no less."""
        return max(self._seconds)

    def observe(self, seconds: float, *, is_plain: bool) -> None:
        """From the end of one cycle's calls to the next one's, per cycle of the first."""
        rises = seconds > self._seconds[is_plain]
        self._seconds[is_plain] *= HOST_STEP if rises else 1 / HOST_STEP
