"""What a planner may choose from: proposers, what they cost, where their acceptance is counted."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from functools import cache

from halfbyte.cascade.decoding import Decoding
from halfbyte.cascade.proposer import Proposer
from halfbyte.planner.acceptance import Source
from halfbyte.planner.cost_table import CostTable

MOST_TOKENS = 1 << 30


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds to propose one token more for each of some sequences, pass by pass."""

    first: float  # a call's first pass, of one sequence
    further: float  # each pass after it
    growth: Callable[[int], float]  # of any pass, for a sequence beside so many
    attention: float = 0.0  # of any pass, per sequence and token of its context

    def token_seconds(self, together: int, *, first: bool) -> float:
        """A token for a sequence beside `together` others; `first`: in the call's first pass."""
        return self.growth(together) if together else self.first if first else self.further


def level_cost(table: CostTable, level: str) -> Cost:
    """Weights at a level, the target's or another model's: their table knows."""

    @cache
    def growth(together: int) -> float:
        return table.linear_seconds(level, together + 1) - table.linear_seconds(level, together)

    return Cost(*table.drafts[level], growth, table.attention_seconds(1, 1.0))


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """One way to propose to the target.

    `evidence` tells of sequences, before anything is proposed, what speaks for a proposal: the
    length of an n-gram's match, 0 without one. It grows by at most 1 with each token of the text.
    A longer match is right more often: each of `sources` (ascending) counts for evidence from its
    own on. Without `evidence` there is one source.
    """

    name: str  # its stages: `ngram > w4a8`
    proposer: Proposer
    cost: Cost
    sources: tuple[Source, ...]
    max_length: int
    depth: int = MOST_TOKENS  # passes at most: the levels of a tree of `max_length` nodes
    unread: Callable[[Decoding], float] | None = None  # of a model: seconds to read a text's rest
    evidence: Callable[[Seq[Decoding]], list[int]] | None = None
