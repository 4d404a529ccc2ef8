"""Decoding speed of several cascades over one loaded model, in interleaved rounds."""

from __future__ import annotations

import statistics as stats
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from halfbyte.api.llm import LLM
from halfbyte.api.results import Completion
from halfbyte.cascade.cascade import Cascade
from halfbyte.cascade.statistics import Statistics
from halfbyte.checks import check_int
from halfbyte.evaluate.exactness import identical
from halfbyte.evaluate.prompts import PROMPTS, BenchPrompt
from halfbyte.sampling.params import SamplingParams

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Spread:
    """Over the rounds."""

    median: float
    p20: float
    p80: float


@dataclass(frozen=True, slots=True)
class BenchRow:
    """One cascade. Speed is emitted tokens over the time after prefill, all prompts of a round."""

    cascade: str
    tokens_per_second: Spread
    prefill_tokens_per_second: float  # median
    tau: float
    alpha: list[float]  # by draft position
    bytes_per_token: float  # weights only, KV not counted
    share_of_bandwidth: float | None  # of what pinned threads can read; None: not measured
    identical: bool  # every round: tokens and logprobs of plain decoding at the same target
    speedup: float  # over plain decoding at the same target, medians
    weight_bytes: int  # resident, all levels

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return asdict(self)


def check_rounds(rounds: int) -> None:
    """Raise ArgumentError for a number of rounds that times nothing."""
    check_int("rounds", rounds, 1, 1_000_000, "5 is a good number")


def bench(
    llm: LLM,
    cascades: Sequence[str | Cascade],
    *,
    max_tokens: int = 128,
    rounds: int = 5,
    prompts: Sequence[BenchPrompt] = PROMPTS,
    bandwidth_gbs: float | None = None,
    report: Report = lambda _: None,
) -> list[BenchRow]:
    """A row per cascade; the plain run of each target is measured too, as what it is held against.

    Every round runs every cascade over every prompt, so a slow moment of the machine hits all of
    them. A first round warms up; its plain output is what every timed round must repeat.
    """
    check_rounds(rounds)
    wanted = [llm.resolve(cascade) for cascade in cascades]
    # In order, each once, with the plain run of every target.
    running = list(dict.fromkeys([c.plain for c in wanted] + wanted))
    # Rounds repeat the prompts: with a prefix cache there would be no prefill to measure.
    llms = {cascade: llm.with_cascade(cascade, prefix_cache=False) for cascade in running}
    params = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
    first: dict[Cascade, list[Completion]] = {}
    for cascade in running:
        report(f"warm-up: {cascade}")
        first[cascade] = _round(llms[cascade], prompts, params)
    exact = {c: identical(output, first[c.plain]) for c, output in first.items()}
    totals: dict[Cascade, list[Statistics]] = {cascade: [] for cascade in running}
    for number in range(rounds):
        for cascade in running:
            report(f"round {number + 1} of {rounds}: {cascade}")
            output = _round(llms[cascade], prompts, params)
            exact[cascade] &= identical(output, first[cascade.plain])
            totals[cascade].append(_total(output))
    return [
        _row(llm, cascade, totals, exact[cascade], bandwidth_gbs)
        for cascade in dict.fromkeys(wanted)
    ]


def _round(llm: LLM, prompts: Sequence[BenchPrompt], params: SamplingParams) -> list[Completion]:
    """Every prompt on its own, as a chat where the model knows how to."""
    if llm.model.source.chat_template is None:
        return [llm.generate(p.text, params)[0] for p in prompts]
    return [llm.chat([{"role": "user", "content": p.text}], params)[0] for p in prompts]


def _total(completions: list[Completion]) -> Statistics:
    total = Statistics()
    for completion in completions:
        total.add(completion.statistics)
    return total


def _row(
    llm: LLM,
    cascade: Cascade,
    totals: dict[Cascade, list[Statistics]],
    exact: bool,
    bandwidth_gbs: float | None,
) -> BenchRow:
    runtime, rounds = llm.model.runtime, totals[cascade]
    speed = spread([s.tokens_per_second for s in rounds])
    plain = spread([s.tokens_per_second for s in totals[cascade.plain]])
    per_token = rounds[0].bytes_per_token(runtime.weight_bytes(cascade.target))
    return BenchRow(
        cascade=str(cascade),
        tokens_per_second=speed,
        prefill_tokens_per_second=stats.median(_prefill_rate(s) for s in rounds),
        tau=rounds[0].tau,
        alpha=rounds[0].alpha,
        bytes_per_token=per_token,
        share_of_bandwidth=per_token * speed.median / (bandwidth_gbs * 1e9)
        if bandwidth_gbs
        else None,
        identical=exact,
        speedup=speed.median / plain.median if plain.median else 0.0,
        weight_bytes=runtime.memory_bytes(),
    )


def _prefill_rate(s: Statistics) -> float:
    return s.prompt_tokens / s.prefill_seconds if s.prefill_seconds > 0 else 0.0


def spread(values: Sequence[float]) -> Spread:
    """Median and the 20th and 80th percentiles, linear between the ordered values."""
    ordered = sorted(values)

    def at(share: float) -> float:
        place = share * (len(ordered) - 1)
        low = int(place)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (ordered[high] - ordered[low]) * (place - low)

    return Spread(at(0.5), at(0.2), at(0.8))
