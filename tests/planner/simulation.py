"""Decoding without a model: costs by formula, acceptance by dice. For what a planner decides."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from halfbyte.cascade.cycle import CycleReport, Turn
from halfbyte.cascade.proposer import Ask, Link, Proposals
from halfbyte.cascade.verify import Outcome
from halfbyte.config import Level
from halfbyte.planner.acceptance import Source
from halfbyte.planner.candidates import Candidate, Cost, level_cost
from halfbyte.planner.cost_table import CostTable
from halfbyte.planner.planner import CostPlanner
from halfbyte.sampling.sampler import GREEDY, Sampler
from tests.planner.timed_runtime import PAIR, SEQUENCE, attention_seconds, linear_seconds

ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128)
TARGET = Level.parse("w8a16")
LOOKUP = 2e-5


def table() -> CostTable:
    """What a perfect probe of `timed_runtime` would find."""
    return CostTable(
        ROWS,
        {level: tuple(linear_seconds(level, m) for m in ROWS) for level in ("w8a16", "w4a8")},
        tuple(SEQUENCE + PAIR * m for m in ROWS),
        {"w4a8": (linear_seconds("w4a8", 1),) * 2},
    )


@dataclass(eq=False)
class Text:
    """A `Decoding` of which only the length counts; how often each candidate is right for it."""

    alphas: dict[str, Seq[float]]
    committed_len: int = 600
    match: int = 0  # evidence of the n-gram candidate
    tokens: Seq[int] = range(600)
    pending: int = 0
    remaining: int = 1 << 30
    page_row: NDArray[np.int32] = field(default_factory=lambda: np.zeros(1, np.int32))
    sampler: Sampler = GREEDY

    def commit(self, tokens: list[int]) -> None:
        """The context stays, so that every cycle of a run is like every other; the text grows."""
        self.tokens = range(len(self.tokens) + len(tokens))


class NamedProposer:
    """Proposes nothing itself: the simulation throws the dice."""

    def __init__(self, name: str) -> None:
        self.name = self.stack = name
        self.live: set[object] = set()

    def begin(self, sequence: object) -> None:
        self.live.add(sequence)

    def propose(self, asks: Seq[Ask]) -> Proposals:
        raise AssertionError("a simulation does not decode")

    def observe(self, asks: Seq[Ask], outcomes: Seq[Outcome]) -> None:
        raise AssertionError("a simulation does not decode")

    def release(self, sequence: object) -> None:
        self.live.discard(sequence)


def _matches(texts: Seq[Text]) -> list[int]:
    return [text.match for text in texts]


def candidates(*names: str, length: int = 8) -> list[Candidate]:
    """`w4a8`, and `ngram` with evidence 1 .. 4 of the text's `match`."""
    made = []
    for name in names:
        if name == "ngram":
            sources = tuple(Source(name, i, 0.5) for i in range(1, 5))
            proposer = NamedProposer(name)
            cost = Cost(LOOKUP, 0.0, lambda _: 0.0)
            made.append(Candidate(name, proposer, cost, sources, length, evidence=_matches))
        else:
            cost = level_cost(table(), name)
            made.append(Candidate(name, NamedProposer(name), cost, (Source(name),), length))
    return made


def planner_of(*names: str) -> CostPlanner:
    """With these candidates, or both."""
    return CostPlanner(TARGET, table(), candidates(*(names or ("w4a8", "ngram"))))


@dataclass
class Simulation:
    """Runs plans; `slow` multiplies the time of what it names (`verify`, a candidate)."""

    seed: int = 0
    noise: float = 0.0
    slow: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    tokens: int = 0
    choices: Counter[tuple[str, int]] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)

    def cycle(self, texts: Seq[Text], plan: Seq[Turn]) -> CycleReport:
        outcomes, links, draft = [], [], 0.0
        for name in dict.fromkeys(t.proposer.name for t in plan if t.proposer and t.length):
            members = [b for b, t in enumerate(plan) if t.proposer and t.proposer.name == name]
            took = self._draft(name, [plan[b].length for b in members], [texts[b] for b in members])
            took *= self.slow.get(name, 1.0) * self._jitter()
            draft += took
            links.append(Link(f"{name} > {TARGET}", 1, 0, took))
        rows = [1 + turn.length for turn in plan]
        verify = linear_seconds(TARGET, sum(rows))
        verify += sum(
            attention_seconds(m, t.committed_len) for m, t in zip(rows, texts, strict=True)
        )
        verify *= self.slow.get("verify", 1.0) * self._jitter()
        for text, turn in zip(texts, plan, strict=True):
            accepted = 0
            if turn.proposer is not None:
                alphas = text.alphas[turn.proposer.name]
                while (
                    accepted < turn.length
                    and self.rng.random() < alphas[min(accepted, len(alphas) - 1)]
                ):
                    accepted += 1
            outcome = Outcome([0] * (accepted + 1), [0.0] * (accepted + 1), turn.length, accepted)
            text.commit(outcome.tokens)
            outcomes.append(outcome)
            name = turn.proposer.name if turn.proposer and turn.length else "plain"
            self.choices[name, turn.length] += 1
            self.tokens += accepted + 1
        self.seconds += draft + verify
        return CycleReport(outcomes, links, draft, verify)

    def _draft(self, name: str, lengths: list[int], texts: Seq[Text]) -> float:
        if name == "ngram":
            return LOOKUP * len(lengths)
        return sum(
            linear_seconds(name, sum(n > step for n in lengths))
            + sum(
                attention_seconds(1, t.committed_len + step)
                for n, t in zip(lengths, texts, strict=True)
                if n > step
            )
            for step in range(max(lengths))
        )

    def _jitter(self) -> float:
        return 1.0 + self.noise * self.rng.expovariate(1.0) if self.noise else 1.0


def run(
    make_plan: Callable[[Seq[Text]], list[Turn]],
    learn: Callable[[Seq[Text], Seq[Turn], CycleReport], None],
    texts: Seq[Text],
    cycles: int,
    simulation: Simulation,
) -> float:
    """Tokens per second over `cycles` cycles."""
    tokens, seconds = simulation.tokens, simulation.seconds
    for _ in range(cycles):
        plan = make_plan(texts)
        learn(texts, plan, simulation.cycle(texts, plan))
    return (simulation.tokens - tokens) / (simulation.seconds - seconds) if cycles else 0.0
