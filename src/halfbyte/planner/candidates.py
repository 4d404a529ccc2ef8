"""What a planner may choose from: proposers, what they cost, where their acceptance is counted."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Protocol

from halfbyte.cascade.decoding import Decoding
from halfbyte.cascade.proposer import Proposer
from halfbyte.planner.acceptance import Source
from halfbyte.planner.cost_table import CostTable

MOST_TOKENS = 1 << 30
CONTEXT_STEP = 64  # contexts are rounded to this, so that costs can be kept
LOOKUP_SECONDS = 1e-5  # of a proposer that runs no model; Python on a slow core


class ArmCost(Protocol):
    """Seconds to propose, one token further for some sequences at a time."""

    reads_context: bool  # whether a pass also attends to each sequence's context

    def context_seconds(self, context: int) -> float:
        """What that takes for a sequence."""

    def pass_seconds(self, sequences: int, *, first: bool) -> float:
        """One more token for each of `sequences` sequences; `first`: what the call costs too."""

    def learn(self, seconds: float, lengths: list[int]) -> None:
        """A call for these lengths took so long."""


class LevelCost:
    """Weights at a level, the target's or another model's: their table knows."""

    reads_context = True

    def __init__(self, table: CostTable, level: str) -> None:
        self._table, self._level = table, level
        self._passes: dict[tuple[int, bool], float] = {}
        self._contexts: dict[int, float] = {}

    def context_seconds(self, context: int) -> float:
        """One row's attention; contexts are rounded, so that it can be kept."""
        key = context // CONTEXT_STEP
        if key not in self._contexts:
            middle = (key + 0.5) * CONTEXT_STEP
            self._contexts[key] = self._table.attention_seconds(1, middle)
        return self._contexts[key]

    def reading_seconds(self, tokens: int) -> float:
        """To run so many tokens of a text that it has not seen."""
        return self._table.linear_seconds(self._level, tokens) if tokens > 0 else 0.0

    def pass_seconds(self, sequences: int, *, first: bool) -> float:
        """See `CostTable.step_seconds`."""
        found = self._passes.get((sequences, first))
        if found is None:
            found = self._table.step_seconds(self._level, sequences, first=first)
            self._passes[sequences, first] = found
        return found

    def learn(self, seconds: float, lengths: list[int]) -> None:
        """Nothing: the planner's drift corrects the table."""


class LookupCost:
    """No model runs: a little Python a sequence, whatever the length."""

    reads_context = False

    def context_seconds(self, context: int) -> float:
        """Nothing."""
        return 0.0

    def pass_seconds(self, sequences: int, *, first: bool) -> float:
        """Each sequence once."""
        return LOOKUP_SECONDS * sequences if first else 0.0

    def learn(self, seconds: float, lengths: list[int]) -> None:
        """Nothing."""


class LearnedCost:
    """A proposer that no table covers: so much a call and so much a pass, from what calls took.

    A call of longest length k costs first + (k - 1) * further, both least squares over faded
    calls; the guess stands in until lengths have varied. More sequences cost `growth` more each.
    """

    FADE = 0.97
    GUESS_WEIGHT = 2.0

    reads_context = False

    def __init__(self, first: float, further: float, growth: float = 0.1) -> None:
        self._growth = growth
        # Weighted sums over calls of 1, x, x*x, y and x*y, x = longest length - 1.
        self._sums = [0.0] * 5
        for x in (0.0, 3.0):
            self._add(x, first + further * x, self.GUESS_WEIGHT)
        self._first, self._further = first, further

    def context_seconds(self, context: int) -> float:
        """It is in what calls took."""
        return 0.0

    def pass_seconds(self, sequences: int, *, first: bool) -> float:
        """As learned, for one sequence, and a share of it for each one more."""
        one = self._first if first else self._further
        return one * (1.0 + self._growth * (sequences - 1))

    def learn(self, seconds: float, lengths: list[int]) -> None:
        """Fit again."""
        if not lengths or max(lengths) < 1 or not seconds > 0.0:
            return
        self._sums = [s * self.FADE for s in self._sums]
        self._add(max(lengths) - 1.0, seconds / (1.0 + self._growth * (len(lengths) - 1)), 1.0)
        n, x, xx, y, xy = self._sums
        spread = n * xx - x * x
        if spread > 1e-9 * n * n:
            self._further = max(0.0, (n * xy - x * y) / spread)
        self._first = max(0.0, (y - self._further * x) / n)

    def _add(self, x: float, y: float, weight: float) -> None:
        for i, value in enumerate((1.0, x, x * x, y, x * y)):
            self._sums[i] += weight * value


@dataclass(frozen=True, slots=True)
class Unread:
    """What a model has to run of a text before it can draft for it."""

    tokens: Callable[[Decoding], int]
    seconds: Callable[[int], float]  # for so many tokens


@dataclass(frozen=True, slots=True, eq=False)
class Arm:
    """One way to propose to the target.

    `evidence` tells of sequences, before anything is proposed, what speaks for a proposal: the
    length of an n-gram's match, 0 without one. It grows by at most 1 with each token of the text.
    A longer match is right more often: each of `sources` (ascending) stands for evidence from its
    own on.
    """

    name: str  # its stages: `ngram > w4a8`
    proposer: Proposer
    cost: ArmCost
    sources: tuple[Source, ...]
    max_length: int
    inner_length: int = 0
    depth: int = MOST_TOKENS  # passes at most: the levels of a tree of `max_length` nodes
    unread: Unread | None = None  # of a model with KV of its own
    evidence: Callable[[Seq[Decoding]], list[int]] | None = None

    def source_of(self, step: int) -> Source | None:
        """Where acceptance is counted, for evidence of `sources[step]`; -1: there is none."""
        if self.evidence is None:
            return self.sources[0]
        return self.sources[step] if step >= 0 else None

    def source(self, sequence: Decoding) -> Source | None:
        """Where acceptance for the sequence is counted; None: it has nothing to propose."""
        if self.evidence is None:
            return self.sources[0]
        found = self.evidence([sequence])[0]
        return next((source for source in reversed(self.sources) if found >= source.evidence), None)
