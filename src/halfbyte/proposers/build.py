"""From a cascade to the proposer that serves its target."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from halfbyte.cascade.cascade import Cascade
from halfbyte.cascade.planning import FixedPlan
from halfbyte.cascade.proposer import Proposer
from halfbyte.cascade.stages import Eagle, Model, Ngram, Stage
from halfbyte.config import Level
from halfbyte.errors import ArgumentError
from halfbyte.proposers.drafter import Drafter
from halfbyte.proposers.eagle import EagleProposer
from halfbyte.proposers.intermediate import Intermediate
from halfbyte.proposers.ngram import NgramProposer
from halfbyte.proposers.options import NgramOptions
from halfbyte.proposers.runner import Runner, SharedRunner
from halfbyte.runtime.draft_head import DraftHead
from halfbyte.runtime.protocol import Runtime


class Proposers:
    """The proposers over one runtime. Each stack of stages is built once and then shared, so
    cascades with a stage in common share what that stage remembers."""

    def __init__(
        self,
        runtime: Runtime,
        min_confidence: float = 0.0,
        *,
        ngram: NgramOptions | None = None,
        draft_ids: NDArray[np.int32] | None = None,
        open_model: Callable[[Model], Runner] | None = None,
        open_head: Callable[[Eagle, Model | None], DraftHead] | None = None,
    ) -> None:
        """`draft_ids`: the tokens (ascending) that levels of the target draft from; None: all.

        `open_model` brings a `model:` stage's weights, `open_head` an `eagle:` stage's, beside the
        model that judges it (None: the target); each is called once per stage.
        """
        self._runtime = runtime
        self._min_confidence = min_confidence
        self._ngram = ngram
        self._head = 0 if draft_ids is None else runtime.reduce_head(draft_ids)
        self._open_model = open_model
        self._open_head = open_head
        self._built: dict[tuple[Stage, ...], Proposer] = {}
        self._runners: dict[Stage, Runner] = {}

    def of(self, cascade: Cascade) -> Proposer | None:
        """What proposes to the cascade's target; None: plain decoding."""
        stages = cascade.stages[:-1]
        return self._stack(stages) if stages else None

    def fixed_plan(self, cascade: Cascade, draft_length: int, inner_length: int) -> FixedPlan:
        """What an explicit cascade does in every cycle."""
        return FixedPlan(self.of(cascade), draft_length, inner_length)

    def _stack(self, stages: tuple[Stage, ...]) -> Proposer:
        if stages not in self._built:
            self._built[stages] = self._build(stages)
        return self._built[stages]

    def _build(self, stages: tuple[Stage, ...]) -> Proposer:
        *before, last = stages
        if isinstance(last, Ngram):
            return NgramProposer(self._ngram)
        if isinstance(last, Eagle) and self._open_head is not None:
            head = self._open_head(last, None)
            return EagleProposer(str(last), head, self._runtime, self._min_confidence)
        runner = self.runner(last)
        if not before:
            return Drafter(runner, self._min_confidence)
        first = before[0]
        if isinstance(last, Model) and isinstance(first, Eagle):
            inner: Proposer = self._eagle_before(first, last, runner)
        else:
            inner = self._stack(tuple(before))
        return Intermediate(inner, runner, self._min_confidence)

    def _eagle_before(self, stage: Eagle, model: Model, runner: Runner) -> EagleProposer:
        """A head reads the features of the model that judges it: it is that model's, not shared."""
        if self._open_head is None:
            raise _no_proposer(stage)
        return EagleProposer(
            str(stage),
            self._open_head(stage, model),
            runner.runtime,
            self._min_confidence,
            pages_before=runner.pages_before,
        )

    def runner(self, stage: Stage) -> Runner:
        """The weights that a level or a model in a stack runs on."""
        if stage not in self._runners:
            if isinstance(stage, Level):
                self._runners[stage] = SharedRunner(self._runtime, stage, self._head)
            elif isinstance(stage, Model) and self._open_model is not None:
                self._runners[stage] = self._open_model(stage)
            else:
                raise _no_proposer(stage)
        return self._runners[stage]


def _no_proposer(stage: Stage) -> ArgumentError:
    return ArgumentError(
        f"stage '{stage}'",
        got="a stage without a proposer",
        expected="a level, ngram, or a model or head where those can be opened",
        fix="name another stage",
    )
