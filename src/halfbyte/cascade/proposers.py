"""From a cascade to the proposer that serves its target."""

from __future__ import annotations

from halfbyte.cascade.cascade import Cascade
from halfbyte.cascade.drafter import Drafter
from halfbyte.cascade.proposer import Proposer
from halfbyte.cascade.runner import SharedRunner
from halfbyte.cascade.stages import Stage
from halfbyte.config import Level
from halfbyte.errors import ArgumentError
from halfbyte.runtime.protocol import Runtime


class Proposers:
    """The proposers over one runtime. Each stack of stages is built once and then shared, so
    cascades with a stage in common share what that stage remembers."""

    def __init__(self, runtime: Runtime, min_confidence: float = 0.0) -> None:
        self._runtime = runtime
        self._min_confidence = min_confidence
        self._built: dict[tuple[Stage, ...], Proposer] = {}

    def of(self, cascade: Cascade) -> Proposer | None:
        """What proposes to the cascade's target; None: plain decoding."""
        stages = cascade.stages[:-1]
        if not stages:
            return None
        if stages not in self._built:
            self._built[stages] = self._build(stages)
        return self._built[stages]

    def _build(self, stages: tuple[Stage, ...]) -> Proposer:
        last = stages[-1]
        if len(stages) == 1 and isinstance(last, Level):
            return Drafter(SharedRunner(self._runtime, last), self._min_confidence)
        raise ArgumentError(
            f"stages '{' > '.join(map(str, stages))}'",
            got="stages without a proposer",
            expected="LEVEL or LEVEL > LEVEL",
            fix="this version cannot run it",
        )
