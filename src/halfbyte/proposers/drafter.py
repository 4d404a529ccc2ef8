"""A stage that drafts on its own: it decodes plainly, a whole run of tokens in one native call."""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq
from time import perf_counter

import numpy as np

from halfbyte.cascade.decoding import Decoding
from halfbyte.cascade.place import Place, roots_of
from halfbyte.cascade.proposer import Ask, Fused, Proposals
from halfbyte.cascade.verify import Outcome, verify
from halfbyte.proposers.runner import Runner, readable
from halfbyte.runtime.protocol import DraftRun
from halfbyte.sampling.shaping import Changes, adjustments_of


class Drafter:
    """A level of the target (QSpec's draft) or another model; stops where it is unsure."""

    deepest = None

    def __init__(self, runner: Runner, min_confidence: float = 0.0) -> None:
        self._runner = runner
        self._min_confidence = min_confidence
        self._forward_bytes = runner.runtime.weight_bytes(runner.level, runner.head)
        self._fused = None
        if not runner.has_pages:
            self._fused = Fused(
                runner.runtime, runner.level, min_confidence, runner.head, self._forward_bytes
            )

    @property
    def name(self) -> str:
        """Its stage in the cascade string."""
        return self._runner.name

    @property
    def stack(self) -> str:
        """The same: no stage stands before it."""
        return self._runner.name

    @property
    def fused(self) -> Fused | None:
        """A level of the target's own weights drafts in the target's own KV."""
        return self._fused

    def begin(self, sequence: Decoding) -> None:
        """Make room for a sequence."""
        self._runner.begin(sequence)

    def release(self, sequence: Decoding) -> None:
        """Give back what a sequence holds."""
        self._runner.release(sequence)

    def observe(self, asks: Seq[Ask], outcomes: Seq[Outcome]) -> None:
        """Nothing to learn: what was rejected is overwritten."""

    def propose(self, asks: Seq[Ask]) -> Proposals:
        """Draft for every ask; rows that a model has not seen yet run with the first token."""
        started = perf_counter()
        tokens: list[list[int]] = [[] for _ in asks]
        roots = places = self._runner.enter(asks, [ask.depth for ask in asks])
        forwards = 0
        if any(len(place.tokens) > 1 for place in places.values()):
            roots = self._catch_up(places, tokens)
            forwards = 1
        roots = {i: root for i, root in roots.items() if len(tokens[i]) < asks[i].depth}
        if roots:
            forwards += self._run(roots, asks, tokens)
        for i, place in places.items():
            # The last token wanted is drawn but not fed; one short of it was.
            self._runner.left(asks[i], place, tokens[i][: asks[i].depth - 1])
        tokens = [readable(drafted, self._runner.vocab_size) for drafted in tokens]
        seconds = perf_counter() - started
        return Proposals(tokens, forwards, forwards * self._forward_bytes, seconds)

    def _catch_up(self, places: dict[int, Place], tokens: list[list[int]]) -> dict[int, Place]:
        """Run what the model has not seen and draw each first token: the roots of those sure."""
        runtime, level = self._runner.runtime, self._runner.level
        outcomes = verify(runtime, level, list(places.values()), [[] for _ in places])
        roots = {}
        for (i, place), outcome in zip(places.items(), outcomes, strict=True):
            if math.exp(outcome.logprobs[0]) >= self._min_confidence:
                tokens[i] = outcome.tokens
                after = place.root_position + 1
                roots[i] = Place(outcome.tokens, after, place.page_row, place.sampler)
        return roots

    def _shape(self, ask: Ask, drafted: list[int]) -> Changes | None:
        """What changes the first token of a draft: only text known for sure is looked at, and only
        the target's own weights have its vocabulary."""
        shaper = ask.sequence.sampler.shaper
        if shaper is None or ask.ahead or drafted or self._runner.has_pages:
            return None
        return shaper.changes([])[0]

    def _run(self, roots: dict[int, Place], asks: Seq[Ask], tokens: list[list[int]]) -> int:
        """Decode on from the roots; returns how many forwards that took."""
        places = list(roots.values())
        lengths = [asks[i].depth - len(tokens[i]) for i in roots]
        batch, sampling = roots_of(places)
        sampling.adjustments = adjustments_of([self._shape(asks[i], tokens[i]) for i in roots])
        each = np.array(lengths, dtype=np.int32)
        run = DraftRun(self._runner.level, each, self._min_confidence, self._runner.head)
        drafted = self._runner.runtime.draft(batch, run, sampling)
        counts: list[int] = drafted.counts.tolist()
        for i, row, count in zip(roots, drafted.tokens.tolist(), counts, strict=True):
            tokens[i] = tokens[i] + row[:count]
        # A sequence that stopped early ran one forward more than it proposed.
        return max(min(n + 1, most) for n, most in zip(counts, lengths, strict=True))
