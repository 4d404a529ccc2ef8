"""What the planner expects of every candidate, and why it chooses what it chooses."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import asdict, dataclass, replace
from typing import Any

from halfbyte.api.llm import LLM
from halfbyte.api.request import Request
from halfbyte.cascade.cycle import PLAIN, CycleReport, Turn
from halfbyte.cascade.decoding import Decoding
from halfbyte.engine.engine import Engine
from halfbyte.evaluate.prompts import PROMPTS
from halfbyte.planner.acceptance import POSITIONS, Acceptance, Source, gains_of
from halfbyte.planner.candidates import Arm
from halfbyte.planner.cost_table import CostTable
from halfbyte.planner.draft_prefill import MUCH_UNREAD
from halfbyte.planner.forecast import Forecaster
from halfbyte.planner.planner import CostPlanner
from halfbyte.sampling.params import SamplingParams

BATCHES = (1, 2, 4, 8, 16)
TOUR_LENGTH = 4
CLOSE = 0.02  # a candidate this near to the choice is called close
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to decode, for a batch of equal sequences: SpecMQuant's equation 1 and its parts."""

    cascade: str
    evidence: str  # what must be so for it to propose: `match 4-5`
    batch: int
    context: int
    draft_length: int
    tau: float  # tokens a sequence and cycle
    draft_ratio: float  # d * T_draft / T_target: drafting, in plain steps
    verify_ratio: float  # T_verify / T_target
    speedup: float  # tau / (draft_ratio + verify_ratio)
    tokens_per_second: float  # of the batch
    depth: int = 0  # of a tree of `draft_length` nodes
    is_choice: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class PlanReport:
    """All of it, for a model and a target."""

    model: str
    target: str
    table: CostTable
    alphas: dict[str, list[float]]  # by source and position
    candidates: list[Candidate]

    def choice(self, batch: int, context: int) -> Candidate:
        """What the planner does where no n-gram matches."""
        return next(
            c
            for c in self.candidates
            if c.is_choice and not c.evidence and (c.batch, c.context) == (batch, context)
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "model": self.model,
            "target": self.target,
            "table": self.table.as_dict(),
            "alphas": self.alphas,
            "candidates": [asdict(candidate) for candidate in self.candidates],
        }


class Tour:
    """Has every arm propose in turn, so that a planner sees how often each is accepted."""

    def __init__(self, planner: CostPlanner) -> None:
        self._planner = planner
        self._step = 0
        self._arm = planner.arms[0]
        self._sources: list[Source | None] = []
        self._reads = False

    def begin(self, sequence: Decoding) -> None:
        """As the planner."""
        self._planner.begin(sequence)

    def release(self, sequence: Decoding) -> None:
        """As the planner."""
        self._planner.release(sequence)

    def plan(self, sequences: Seq[Decoding]) -> list[Turn]:
        """The next arm for all; plain where it has nothing to go by."""
        self._step += 1
        self._arm = self._planner.arms[self._step % len(self._planner.arms)]
        self._sources = [self._arm.source(s) for s in sequences]
        unread = self._arm.unread
        self._reads = unread is not None and any(unread.tokens(s) > MUCH_UNREAD for s in sequences)
        inner = min(self._arm.inner_length, TOUR_LENGTH - 1)
        turn = Turn(self._arm.proposer, TOUR_LENGTH, inner)
        return [PLAIN if source is None else turn for source in self._sources]

    def plain_for(self, sequences: Seq[Decoding]) -> int:
        """The next cycle is another arm's."""
        return 1

    def learn(self, sequences: Seq[Decoding], plan: Seq[Turn], report: CycleReport) -> None:
        """Count what was accepted, and what it cost where no table tells."""
        lengths = []
        for sequence, source, turn, outcome in zip(
            sequences, self._sources, plan, report.outcomes, strict=True
        ):
            if source is not None and turn.length > 0:
                lengths.append(turn.length)
                self._planner.acceptance.observe(
                    source, sequence, turn.length, outcome.accepted, self._step, outcome.tree
                )
        if not self._reads:
            self._arm.cost.learn(report.draft_seconds, [min(n, self._arm.depth) for n in lengths])


def measure_acceptance(llm: LLM, planner: CostPlanner, tokens: int, say: Say) -> None:
    """Decode the built-in prompts, `tokens` each, with every arm in turn."""
    if not planner.arms:
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


def plan_report(
    name: str,
    target: str,
    table: CostTable,
    arms: Seq[Arm],
    acceptance: Acceptance,
    alpha: float | None = None,
    batches: Seq[int] = BATCHES,
) -> PlanReport:
    """`alpha` stands in for what was seen of the draft levels."""
    forecaster = Forecaster(target, table, arms)
    candidates: list[Candidate] = []
    for batch in batches:
        for context in table.contexts:
            plain = forecaster.plain([context] * batch)
            rows = [
                Candidate(target, "", batch, context, 0, 1.0, 0.0, 1.0, 1.0, plain.rate),
            ]
            for at, arm in enumerate(arms):
                for source in arm.sources:
                    gains = _gains(acceptance, source, alpha if arm.evidence is None else None)
                    rows.append(_candidate(forecaster, at, arm, source, batch, context, gains))
            candidates += _judged(rows)
    alphas = {
        f"{source.name} {_evidence(arm, source)}".strip(): list(acceptance.alphas(source))
        for arm in arms
        for source in arm.sources
    }
    return PlanReport(name, target, table, alphas, candidates)


def _gains(acceptance: Acceptance, source: Source, alpha: float | None) -> Seq[float]:
    if alpha is None or source.is_tree:
        return gains_of(source, acceptance.alphas(source))
    return gains_of(source, [alpha] * POSITIONS)


def _candidate(
    forecaster: Forecaster,
    at: int,
    arm: Arm,
    source: Source,
    batch: int,
    context: int,
    gains: Seq[float],
) -> Candidate:
    """An arm at its best length for `batch` equal sequences."""
    plain = forecaster.plain([context] * batch)
    one, more = forecaster.attention(context)
    best: Candidate | None = None
    for length in range(1, arm.max_length + 1):
        draft = forecaster.draft_seconds(at, [length] * batch, [context] * batch)
        attention = batch * (one + length * more)
        verify = forecaster.verify_seconds(batch * (1 + length), attention)
        tau = 1.0 + sum(gains[:length])
        found = Candidate(
            cascade=f"{arm.name} > {forecaster.target}",
            evidence=_evidence(arm, source),
            batch=batch,
            context=context,
            draft_length=length,
            tau=tau,
            draft_ratio=draft / plain.seconds,
            verify_ratio=verify / plain.seconds,
            speedup=tau * plain.seconds / (draft + verify),
            tokens_per_second=batch * tau / (draft + verify),
            depth=min(length, arm.depth) if source.is_tree else 0,
        )
        if best is None or found.speedup > best.speedup:
            best = found
    assert best is not None
    return best


def _judged(rows: list[Candidate]) -> list[Candidate]:
    """The same with choices marked: one without a match, and one for each length of match."""
    usual = max((row for row in rows if not row.evidence), key=lambda row: row.speedup)
    judged = []
    for row in rows:
        rivals = [usual, *(r for r in rows if row.evidence and r.evidence == row.evidence)]
        best = max(rivals, key=lambda r: r.speedup)
        is_choice = row is best
        reason = _reason(row, best, is_choice=is_choice)
        judged.append(replace(row, is_choice=is_choice, reason=reason))
    return judged


def _reason(row: Candidate, best: Candidate, *, is_choice: bool) -> str:
    if is_choice:
        return "most tokens per second" + (" with such a match" if row.evidence else "")
    if row.speedup > best.speedup * (1 - CLOSE):
        return f"within {CLOSE:.0%} of {best.cascade}"
    if row.draft_length == 0:
        return f"{best.cascade} is {best.speedup:.2f}x as fast"
    each = row.draft_ratio / row.draft_length
    if row.speedup < 1 and each > 0.85:
        return f"a drafted token costs {each:.2f} of a plain step"
    if row.speedup < 1:
        steps = row.draft_ratio + row.verify_ratio
        return f"{row.tau:.2f} tokens for the time of {steps:.2f} plain steps"
    return f"{best.cascade} is {best.speedup / row.speedup:.2f}x as fast"


def _evidence(arm: Arm, source: Source) -> str:
    """The lengths of match that a source stands for, as words."""
    if arm.evidence is None:
        return ""
    least = source.evidence
    longer = [other.evidence for other in arm.sources if other.evidence > least]
    if not longer:
        return f"match {least}+"
    most = longer[0] - 1
    return f"match {least}" if least == most else f"match {least}-{most}"
