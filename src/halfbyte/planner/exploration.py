"""Exploration: trying what is not thought best, on a budget and only where there is hope.

What was not tried lately may have become better. It is tried if it would win at the hopeful end of
what is known, and if the budget covers what it may lose; what it loses is taken from the budget,
which grows by a share of the decoding time. Reading texts for trials has a budget of its own.
"""

from __future__ import annotations

from collections.abc import Iterable

from halfbyte.planner.forecast import Cycle

SHARES = 0.003, 0.01  # of the time: that trials may lose, that reading texts for them may take
SAVED = 4.0, 32.0  # one-row steps that either budget may be saved up to


class Exploration:
    """The budgets, and what is worth them."""

    def __init__(self, step_seconds: float) -> None:
        self._most = [steps * step_seconds for steps in SAVED]
        self._budgets = list(self._most)  # what has not been tried yet may be tried at once

    def choose(
        self, best: Cycle, hopes: Iterable[tuple[Cycle, Cycle, float]]
    ) -> tuple[Cycle, float] | None:
        """Of cycles at their hopeful end, and as trials with seconds of reading: the most hopeful
        trial that the budgets allow, if it may be better than `best`, and its reading."""
        found, rate = None, best.rate
        for hoped, cycle, reading in hopes:
            # Each sequence gets a token whatever is rejected.
            at_most = cycle.seconds - len(cycle.lengths) / best.rate
            if hoped.rate > rate and at_most <= self._budgets[0] and reading <= self._budgets[1]:
                found, rate = (cycle, reading), hoped.rate
        return found

    def settle(self, seconds: float, tokens: int, given_up: float, reading: float = 0.0) -> bool:
        """A cycle took so long, without reading, and brought so much; `given_up`: tokens per second
        of what a trial took the place of, else 0. Whether it was a trial that lost nothing: then it
        may be tried again at once."""
        lost = seconds - tokens / given_up if given_up else 0.0
        for i, spent in enumerate((max(0.0, lost), reading)):
            self._budgets[i] = min(self._budgets[i] + SHARES[i] * seconds, self._most[i]) - spent
        return given_up > 0.0 and lost <= 0.0
