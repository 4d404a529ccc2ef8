"""Python's time around the runtime's calls, as a replay has it: so much per call and sequence.

Without it a burst of plain cycles would be worth no more than single ones, and a proposal would
only have to pay for its rows.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import Any

from benchmarks.replay.recorded_runtime import Clock
from halfbyte.cascade.cycle import Turn
from halfbyte.cascade.decoding import Decoding
from halfbyte.cascade.planning import Planner

# Seconds, from `host_share` rows of 6d67b8fa46 (SmolLM2, 2 threads): a step of `w8a16` has 249 µs
# of the host's at 1 sequence and 516 at 16, one of `w4a8 > w8a16` 253 and 658; choosing takes
# `auto` 69 µs of a step at 1 sequence and 107 at 16, explicit cascades 3.
CALL, SEQUENCE, PROPOSAL = 231e-6, 18e-6, 9e-6
CHOOSING, CHOOSING_SEQUENCE = 66e-6, 2.5e-6


class Hosted:
    """A planner, whose every plan moves the clock by what a step takes outside the runtime."""

    def __init__(self, planner: Planner, clock: Clock, *, chooses: bool) -> None:
        self._planner, self._clock = planner, clock
        self._call = CALL + CHOOSING * chooses
        self._sequence = SEQUENCE + CHOOSING_SEQUENCE * chooses

    def __getattr__(self, name: str) -> Any:
        return getattr(self._planner, name)

    def plan(self, sequences: Seq[Decoding]) -> list[Turn]:
        """The planner's, a little later."""
        turns = self._planner.plan(sequences)
        proposing = sum(turn.length > 0 for turn in turns)
        self._clock.now += self._call + self._sequence * len(sequences) + PROPOSAL * proposing
        return turns
