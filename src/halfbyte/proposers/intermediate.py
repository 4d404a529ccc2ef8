"""A stage in the middle: it turns what the stage before it proposes into a sequence of its own.

SpecMQuant's hierarchy (arXiv 2505.22179), with any proposer and any stage. In a round the stage
before proposes after the draft so far, and this stage judges that in one forward: what it agrees
with and one token of its own join the draft. Rounds go on until the draft has a minimum length;
then the next stage judges the whole draft as one short causal block.

    length 9, inner_length 3: rounds until 6 or more       root d1 d2 d3 | d4 | d5 d6 d7

A round for which nothing is proposed would be a whole forward for one token: after the first, the
draft ends there. Nor is a round for which the stage before is sure of its proposal: the proposal
joins the draft as it is, and ends it.

`length` is the most that can come of it, so the minimum is length less the most that a round's
proposal can bring: inner_length, or where trees of inner_length nodes are proposed their depth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq
from time import perf_counter

from halfbyte.cascade.decoding import Decoding
from halfbyte.cascade.proposer import Ask, Link, Proposals, Proposer
from halfbyte.cascade.tree import TokenTree
from halfbyte.cascade.verify import Outcome, verify
from halfbyte.proposers.runner import Runner, readable


class Intermediate:
    """Judges `inner` with `runner`'s weights, and proposes to the stage after it."""

    deepest = None
    fused = None

    def __init__(self, inner: Proposer, runner: Runner, min_confidence: float = 0.0) -> None:
        self._inner = inner
        self._runner = runner
        self._min_confidence = min_confidence
        self._forward_bytes = runner.runtime.weight_bytes(runner.level)

    @property
    def name(self) -> str:
        """Its stage in the cascade string."""
        return self._runner.name

    @property
    def stack(self) -> str:
        """Its stage and the one before it."""
        return f"{self._inner.stack} > {self.name}"

    def begin(self, sequence: Decoding) -> None:
        """Make room for a sequence in both stages."""
        self._inner.begin(sequence)
        self._runner.begin(sequence)

    def release(self, sequence: Decoding) -> None:
        """Give back what a sequence holds in both stages."""
        self._inner.release(sequence)
        self._runner.release(sequence)

    def observe(self, asks: Seq[Ask], outcomes: Seq[Outcome]) -> None:
        """Nothing to learn: what was rejected is overwritten."""

    def propose(self, asks: Seq[Ask]) -> Proposals:
        """Rounds, all sequences that still need one together."""
        started = perf_counter()
        drafts: list[list[int]] = [[] for _ in asks]
        link = Link(f"{self._inner.name} > {self.name}")
        going = [i for i, ask in enumerate(asks) if ask.depth > 0]
        forwards = 0
        while going:
            wanted = [self._inner_ask(asks[i], drafts[i]) for i in going]
            outcomes, passed = self._round(wanted, link)
            for number, tokens in passed.items():
                drafts[going[number]] += tokens
            forwards += bool(outcomes)
            unfinished = []
            for number, outcome in outcomes.items():
                i = going[number]
                link.rounds.append((i, outcome.proposed, outcome.accepted))
                sure = self._sure(outcome)
                drafts[i] += sure
                enough = max(1, asks[i].depth - self._most(asks[i]))
                if len(sure) == len(outcome.tokens) and len(drafts[i]) < enough:
                    unfinished.append(i)
            going = unfinished
        seconds = perf_counter() - started - link.seconds
        return Proposals(drafts, forwards, forwards * self._forward_bytes, seconds, [link])

    def _round(
        self, wanted: list[Ask], link: Link
    ) -> tuple[dict[int, Outcome], dict[int, list[int]]]:
        """Ask the stage before, judge what it says; by the number of the ask: outcomes, and what is
        passed on as it is.

        Asks that have a draft already are left out where nothing is proposed.
        """
        runner = self._runner
        answer = self._inner.propose(wanted)
        link.forwards += answer.forwards
        link.bytes_read += answer.bytes_read
        link.seconds += answer.seconds
        proposals = [readable(tokens, runner.vocab_size) for tokens in answer.tokens]
        passed = {
            i: proposal
            for i, (proposal, is_sure) in enumerate(zip(proposals, answer.sure, strict=False))
            if is_sure and proposal and isinstance(proposal, list)
        }
        over = [
            i in passed or (bool(ask.ahead) and ask.depth > 0 and not tokens)
            for i, (ask, tokens) in enumerate(zip(wanted, proposals, strict=True))
        ]
        rows = [0 if end else len(p) + 1 for p, end in zip(proposals, over, strict=True)]
        places = runner.enter(wanted, rows)
        if not places:
            return {}, passed
        looked_at = [proposals[i] for i in places]
        outcomes = verify(runner.runtime, runner.level, list(places.values()), looked_at)
        outcomes_of = dict(zip(places, outcomes, strict=True))
        for (i, place), tokens in zip(places.items(), looked_at, strict=True):
            written = outcomes_of[i].tokens[:-1] if isinstance(tokens, TokenTree) else tokens
            runner.left(wanted[i], place, written)
        self._inner.observe([wanted[i] for i in places], outcomes)
        return outcomes_of, passed

    def _sure(self, outcome: Outcome) -> list[int]:
        """Its tokens up to the first that this stage is unsure of or cannot pass on."""
        tokens = readable(outcome.tokens, self._runner.vocab_size)
        if self._min_confidence > 0:
            for i, logprob in enumerate(outcome.logprobs[: len(tokens)]):
                if math.exp(logprob) < self._min_confidence:
                    return tokens[:i]
        return tokens

    def _most(self, ask: Ask) -> int:
        """Most tokens of a round's proposal that can be accepted."""
        deepest = self._inner.deepest
        return ask.inner_length if deepest is None else min(ask.inner_length, deepest)

    def _inner_ask(self, ask: Ask, draft: list[int]) -> Ask:
        """What the stage before may add to the draft, leaving room for this stage's own token.

        In the target's pages there is room for the draft's length only, a model makes its own.
        """
        depth = min(ask.inner_length, ask.depth - len(draft) - 1)
        nodes = ask.inner_length if depth > 0 and self._runner.has_pages else 0
        sure_depth = ask.depth - len(draft)
        ahead = [*ask.ahead, *draft]
        return Ask(ask.sequence, depth, ahead=ahead, nodes=nodes, sure_depth=sure_depth)
