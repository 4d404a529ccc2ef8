"""What `auto` would do with batches of equal sequences, and why: the planner's own answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from dataclasses import asdict, dataclass
from typing import Any

from halfbyte.api.llm import LLM
from halfbyte.api.request import Request
from halfbyte.cascade.cycle import Turn
from halfbyte.cascade.decoding import Decoding
from halfbyte.engine.engine import Engine
from halfbyte.evaluate.prompts import PROMPTS
from halfbyte.planner.candidates import Candidate
from halfbyte.planner.cost_table import CostTable
from halfbyte.planner.forecast import PLAIN, Cycle
from halfbyte.planner.optimiser import HYSTERESIS
from halfbyte.planner.planner import CostPlanner
from halfbyte.sampling.params import SamplingParams

BATCHES = (1, 2, 4, 8, 16)
CONTEXTS = (128, 1024, 4096)
TOUR_LENGTH = 4  # tokens that each candidate proposes while acceptance is measured
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Option:
    """One way to decode a batch of equal sequences: SpecMQuant's equation 1 and its parts."""

    cascade: str
    evidence: str  # what must be so for it to propose: `match 4-5`
    batch: int
    context: int
    draft_length: float  # tokens proposed per sequence; in a batch not all need propose alike
    tau: float  # tokens per sequence and cycle
    draft_ratio: float  # d * T_draft / T_target: drafting, in plain steps
    verify_ratio: float  # T_verify / T_target
    host_ratio: float  # what Python takes around them
    speedup: float  # tau / (draft_ratio + verify_ratio + host_ratio)
    tokens_per_second: float  # of the batch
    depth: int = 0  # levels of a tree of `draft_length` nodes
    is_choice: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class PlanReport:
    """All of it, for a model and a target."""

    model: str
    target: str
    table: CostTable
    host_seconds: float  # of a cycle with proposals
    alphas: dict[str, list[float]]  # by source and position
    candidates: list[Option]

    @property
    def contexts(self) -> list[int]:
        """Tokens, ascending."""
        return sorted({c.context for c in self.candidates})

    def choice(self, batch: int, context: int, evidence: str = "") -> Option:
        """What the planner does with such matches, or where no n-gram matches."""
        return next(
            c
            for c in self.candidates
            if c.is_choice and (c.batch, c.context, c.evidence) == (batch, context, evidence)
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "model": self.model,
            "target": self.target,
            "table": asdict(self.table),
            "host_seconds": self.host_seconds,
            "alphas": self.alphas,
            "candidates": [asdict(candidate) for candidate in self.candidates],
        }


class Tour:
    """A planner that has every candidate propose in turn, whatever it promises."""

    def __init__(self, planner: CostPlanner) -> None:
        self._planner = planner
        self._cycle = 0
        self.begin, self.release, self.learn = planner.begin, planner.release, planner.learn

    def plan(self, sequences: Seq[Decoding]) -> list[Turn]:
        """The next candidate for all."""
        self._cycle += 1
        index = self._cycle % len(self._planner.candidates)
        return self._planner.force(sequences, index, TOUR_LENGTH)

    def plain_for(self, sequences: Seq[Decoding]) -> int:
        """The next cycle is another candidate's."""
        return 1


def measure_acceptance(llm: LLM, planner: CostPlanner, tokens: int, say: Say) -> None:
    """Decode the built-in prompts, `tokens` each, with every candidate in turn."""
    if not planner.candidates:
        return
    model = llm.model
    params = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)
    engine = Engine(model.runtime, model.pool, llm.cascade, llm.options, lambda _: Tour(planner))
    for prompt in PROMPTS if model.has_text else ():
        say(f"acceptance: {prompt.kind}, {tokens} tokens")
        text = prompt.text
        if model.source.chat_template is not None:
            text = model.template.render([{"role": "user", "content": text}])
        ids = model.codec.encode(text, as_chat=model.source.chat_template is not None)
        engine.add(Request(model, ids, params).sequence)
        try:
            while engine.has_work:
                engine.step()
        finally:
            engine.close()


def assume_acceptance(planner: CostPlanner, alpha: float) -> None:
    """As if every draft level agreed with the target so often."""
    for candidate in planner.candidates:
        if candidate.evidence is None and not candidate.sources[0].is_tree:
            planner.optimiser.acceptance.assume(candidate.sources[0], alpha)


def plan_report(
    name: str,
    table: CostTable,
    planner: CostPlanner,
    *,
    batches: Seq[int] = BATCHES,
    contexts: Seq[int] = CONTEXTS,
) -> PlanReport:
    """What the planner would do now, by what it knows."""
    every = [option for n in batches for c in contexts for option in _options(planner, n, c)]
    alphas = {
        f"{source.name} {_evidence(candidate, i)}".strip(): planner.optimiser.acceptance.alphas(
            source
        )
        for candidate in planner.candidates
        for i, source in enumerate(candidate.sources)
    }
    target, host = planner.target, planner.host.proposing
    return PlanReport(name, str(target), table, host, alphas, every)


def _options(planner: CostPlanner, size: int, context: int) -> Iterator[Option]:
    """Where nothing matches, then for each length of match: plain decoding, what each candidate
    would bring, and the choice."""
    optimiser, candidates = planner.optimiser, planner.candidates
    batch = optimiser.forecaster.batch([context] * size)
    usual = optimiser.usual(batch, PLAIN)
    lookups = [c for c in candidates if c.evidence is not None]
    for found in range(-1, len(lookups[0].sources) if lookups else 0):
        choice = optimiser.best(batch, usual, [found] * size)
        shown = {} if found >= 0 else {PLAIN: batch.plain}
        for number, candidate in enumerate(candidates):
            if (candidate.evidence is not None) == (found >= 0):
                gains = [
                    planner.optimiser.acceptance.gains(candidate.sources[max(found, 0)])
                ] * size
                shown[number] = optimiser.forecaster.proposing(batch, number, gains, forced=True)
        shown[choice.candidate] = choice
        evidence = _evidence(lookups[0], found) if found >= 0 else ""
        for cycle in shown.values():
            yield _option(planner, batch.plain, cycle, choice, context, evidence)


def _option(
    planner: CostPlanner, plain: Cycle, cycle: Cycle, choice: Cycle, context: int, evidence: str
) -> Option:
    size, taken = len(cycle.lengths), None
    if cycle.candidate != PLAIN:
        taken = planner.candidates[cycle.candidate]
    return Option(
        cascade=f"{taken.name} > {planner.target}" if taken else planner.target,
        evidence=evidence,
        batch=size,
        context=context,
        draft_length=sum(cycle.lengths) / size,
        tau=cycle.tokens / size,
        draft_ratio=cycle.draft_seconds / plain.seconds,
        verify_ratio=cycle.verify_seconds / plain.seconds,
        host_ratio=cycle.other_seconds / plain.seconds,
        speedup=cycle.rate / plain.rate,
        tokens_per_second=cycle.rate,
        depth=min(max(cycle.lengths), taken.depth) if taken and taken.sources[0].is_tree else 0,
        is_choice=cycle is choice,
        reason=_reason(plain, cycle, choice),
    )


def _reason(plain: Cycle, cycle: Cycle, choice: Cycle) -> str:
    if cycle is choice:
        return "most tokens per second"
    if cycle.rate >= choice.rate / (1 + HYSTERESIS):
        return f"less than {HYSTERESIS:.0%} from the choice"
    if cycle is plain or cycle.rate > plain.rate:
        return f"the choice is {choice.rate / cycle.rate:.2f}x as fast"
    each = cycle.draft_seconds / plain.seconds / max(cycle.lengths)
    if each > 0.85:
        return f"a drafted token costs {each:.2f} of a plain step"
    tau, steps = cycle.tokens / len(cycle.lengths), cycle.seconds / plain.seconds
    return f"{tau:.2f} tokens for the time of {steps:.2f} plain steps"


def _evidence(candidate: Candidate, number: int) -> str:
    """The lengths of match that a source stands for, as words."""
    if candidate.evidence is None:
        return ""
    least = candidate.sources[number].evidence
    if number + 1 == len(candidate.sources):
        return f"match {least}+"
    most = candidate.sources[number + 1].evidence - 1
    return f"match {least}" if least == most else f"match {least}-{most}"
