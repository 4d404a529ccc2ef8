"""Proposers of every quality, and stacks of stages over fake or tiny runtimes."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq

import numpy as np

from halfbyte.cascade.cycle import CycleReport, Turn
from halfbyte.cascade.decoding import Decoding
from halfbyte.cascade.proposer import Ask, Proposals, Proposer
from halfbyte.cascade.stages import Model
from halfbyte.cascade.tree import TokenTree
from halfbyte.cascade.verify import Outcome
from halfbyte.engine.pages import PagePool
from halfbyte.engine.prefix import DraftTable
from halfbyte.proposers.build import Proposers
from halfbyte.proposers.model_runner import ModelRunner
from halfbyte.runtime.accept import ROOT
from halfbyte.runtime.protocol import Runtime


class Scripted:
    """Proposes what a function of (text so far, how many) says. It keeps nothing."""

    deepest: int | None = None
    fused = None

    def __init__(self, name: str, script: Callable[[list[int], int], list[int]]) -> None:
        self.name = self.stack = name
        self._script = script
        self.begun: set[Decoding] = set()
        self.observed: list[tuple[int, int]] = []

    def begin(self, sequence: Decoding) -> None:
        self.begun.add(sequence)

    def release(self, sequence: Decoding) -> None:
        self.begun.discard(sequence)

    def observe(self, asks: Seq[Ask], outcomes: Seq[Outcome]) -> None:
        self.observed += [(o.proposed, o.accepted) for o in outcomes]

    def propose(self, asks: Seq[Ask]) -> Proposals:
        assert all(ask.sequence in self.begun for ask in asks)
        return Proposals(
            [self._script([*a.sequence.tokens, *a.ahead], a.depth)[: a.depth] for a in asks]
        )


def noise(vocab: int, seed: int = 0) -> Scripted:
    """Random ids, a random number of them."""
    rng = np.random.default_rng(seed)

    def script(text: list[int], length: int) -> list[int]:
        return [int(t) for t in rng.integers(0, vocab, rng.integers(0, length + 1))]

    return Scripted("noise", script)


def knowing(plain: Seq[list[int]], wrong_every: int, vocab: int) -> Scripted:
    """Knows the plain outputs; each `wrong_every`-th position is wrong (0: none)."""

    def script(text: list[int], length: int) -> list[int]:
        for tokens in plain:
            if tokens[: len(text)] == text:
                break
        else:
            return [text[-1]] * length
        return [
            (t + 1) % vocab if wrong_every and at % wrong_every == 0 else t
            for at, t in enumerate(tokens[len(text) : len(text) + length], start=len(text))
        ]

    return Scripted("knowing", script)


class Sure(Scripted):
    """As a script, and sure of it wherever it may be."""

    def propose(self, asks: Seq[Ask]) -> Proposals:
        assert all(ask.sequence in self.begun for ask in asks)
        lengths = [max(a.depth, a.sure_depth) for a in asks]
        tokens = [
            self._script([*a.sequence.tokens, *a.ahead], n)[:n]
            for a, n in zip(asks, lengths, strict=True)
        ]
        return Proposals(tokens, sure=[a.sure_depth > 0 for a in asks])


def sure(script: Scripted) -> Sure:
    """The same proposals, that need no judge in the middle."""
    return Sure(f"sure {script.name}", script._script)


class Branching(Scripted):
    """What a script says as the second child of every level, so that accepted KV has to move."""

    deepest = 3

    def propose(self, asks: Seq[Ask]) -> Proposals:
        assert all(ask.sequence in self.begun for ask in asks)
        return Proposals([self._tree(ask) for ask in asks])

    def _tree(self, ask: Ask) -> TokenTree:
        depth = min(ask.depth, self.deepest, ask.size // 2)
        path = self._script([*ask.sequence.tokens, *ask.ahead], depth) if depth > 0 else []
        tokens: list[int] = []
        parents: list[int] = []
        for token in path[:depth]:
            parents += [len(tokens) - 1 if tokens else ROOT] * 2
            tokens += [token + 1 if token == 0 else token - 1, token]
        return TokenTree(tuple(tokens), tuple(parents))


def branching(script: Scripted) -> Branching:
    """The same proposals as trees."""
    return Branching(f"{script.name}-tree", script._script)


def model_runner(runtime: Runtime, stage: Model, vocab_size: int | None = None) -> ModelRunner:
    """A runtime as another model with pages of its own."""
    pool = PagePool(runtime.num_pages, runtime.page_size)
    return ModelRunner(
        str(stage),
        runtime,
        stage.level,
        new_pages=lambda: DraftTable(pool, pool.num_pages * pool.page_size, stage.level),
        vocab_size=vocab_size or runtime.config.vocab_size,
    )


def proposers(runtime: Runtime, model: Runtime | None = None, confidence: float = 0.0) -> Proposers:
    """Stages over a runtime; every `model:` stage is `model`."""

    def open_model(stage: Model) -> ModelRunner:
        assert model is not None
        return model_runner(model, stage)

    return Proposers(runtime, confidence, open_model=open_model)


class RandomPlanner:
    """A proposer and lengths at random, every step and sequence."""

    def __init__(self, choices: Seq[Proposer | None], seed: int, most: int = 8) -> None:
        self._choices = choices
        self._rng = np.random.default_rng(seed)
        self._most = most
        self.turns: list[Turn] = []

    def begin(self, sequence: Decoding) -> None:
        for proposer in self._choices:
            if proposer is not None:
                proposer.begin(sequence)

    def plain_for(self, sequences: Seq[Decoding]) -> int:
        return int(self._rng.integers(1, 9))

    def release(self, sequence: Decoding) -> None:
        for proposer in self._choices:
            if proposer is not None:
                proposer.release(sequence)

    def plan(self, sequences: Seq[Decoding]) -> list[Turn]:
        turns = [
            Turn(
                self._choices[self._rng.integers(len(self._choices))],
                int(self._rng.integers(self._most + 1)),
                int(self._rng.integers(4)),
            )
            for _ in sequences
        ]
        self.turns += turns
        return turns

    def learn(self, sequences: Seq[Decoding], plan: Seq[Turn], report: CycleReport) -> None:
        assert len(sequences) == len(plan) == len(report.outcomes)
