"""What cycles with proposals brought, as a share of what was expected of them.

Who takes what promises most takes what he overrates most: rows that the machine of the minute does
not run as the table says, a source that has just been lucky. So what such cycles were expected to
bring and to take is kept beside what they did, and the same of plain ones. By how much less came
true, by so much more must the next ones promise.
"""

from __future__ import annotations

FADE = 1 / 64  # of what is kept, with each cycle of its kind
FORGET = 1 / 2048  # of what is known of proposals, with each plain cycle: it may have changed
WEIGHT = 8.0  # cycles that came true before there were any
LEAST = 0.75
LONGEST = 2.0  # of what was expected: one interrupted call says little


class Promises:
    """Shares of what was expected, summed over cycles that fade."""

    def __init__(self) -> None:
        self._tokens = self._seconds = WEIGHT
        self._plain_cycles = self._plain_seconds = WEIGHT

    def plain(self, cycles: int, seconds: float, expected: float) -> None:
        """Plain cycles took `seconds` together."""
        if not (seconds > 0.0 and expected > 0.0):
            return
        left = (1.0 - FADE) ** cycles
        share = min(seconds / expected, LONGEST)
        self._plain_cycles = self._plain_cycles * left + cycles
        self._plain_seconds = self._plain_seconds * left + cycles * share
        forgotten = min(1.0, FORGET * cycles)
        self._tokens += forgotten * (WEIGHT - self._tokens)
        self._seconds += forgotten * (WEIGHT - self._seconds)

    def proposed(self, tokens: float, seconds: float, expected: tuple[float, float]) -> None:
        """A cycle with proposals; `expected` are its tokens and seconds."""
        if not (seconds > 0.0 and expected[0] > 0.0 and expected[1] > 0.0):
            return
        self._tokens = self._tokens * (1.0 - FADE) + tokens / expected[0]
        self._seconds = self._seconds * (1.0 - FADE) + min(seconds / expected[1], LONGEST)

    @property
    def kept(self) -> float:
        """Tokens per second of cycles with proposals over what was expected, beside those of plain
        ones; 1 at most."""
        plain = self._plain_seconds / self._plain_cycles
        return min(max(self._tokens / self._seconds * plain, LEAST), 1.0)
