"""Stages before a target, accounted for: how many tokens each brings, what each costs, what pays.

    python -m benchmarks.decoding.hierarchy --name smollm2-135m --model smollm2-135m --planes 8 \\
        --data DIR --variant 'ngram > w4a8 > w8a16 @8/4'

One sequence at a time, every variant in every round on every prompt. Beside speed a row has each
link's tau and draft length, its share of the time, and what SpecMQuant's equation 1 says of the
same run from separately measured forwards. Speeds include what a model before the target needs to
read the prompt (`draft prefill`); the speed-up without it stands beside.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.decoding.speculation import Variant, answer, by_variant
from benchmarks.measure.arguments import add_model, alias, names, positive, renamed
from benchmarks.measure.machine import pinned_cpus
from benchmarks.measure.occasion import Occasion, Subject
from benchmarks.measure.process import guarded
from benchmarks.measure.rows import RESULTS, Row, append, layout
from benchmarks.measure.workloads import KINDS, REPETITIVE, Workload, load
from halfbyte import LLM
from halfbyte.api.candidates import cost_table
from halfbyte.api.results import Completion
from halfbyte.cascade.stages import Model, Ngram, Stage
from halfbyte.cascade.statistics import LinkStatistics, Statistics
from halfbyte.config import Level
from halfbyte.errors import ArgumentError
from halfbyte.planner.cost_table import CostTable


@dataclass(slots=True)
class Runs:
    """One variant on one kind of work."""

    rounds: list[Statistics] = field(default_factory=list)
    prefills: list[float] = field(default_factory=list)  # draft prefill of a prompt, seconds
    outputs: list[list[int]] = field(default_factory=list)  # of the first round
    contexts: list[float] = field(default_factory=list)  # halfway through, of the first round

    def speeds(self) -> list[float]:
        return [s.tokens_per_second for s in self.rounds]


def main() -> None:
    arguments = _parse()
    os.sched_setaffinity(0, pinned_cpus(arguments.threads))
    named = [Variant.parse(text) for text in arguments.variant]
    variants = list(dict.fromkeys([v.plain for v in named] + named))
    occasion = Occasion.begin(arguments.name, arguments.threads)
    llm = LLM(
        arguments.model,
        str(variants[0].cascade),
        arguments.threads,
        planes=arguments.planes,
        prefix_cache=False,
    )
    costs = {stage: _costs(llm, stage) for v in variants for stage in v.cascade.stages}
    for kind, prompts in load(arguments.data, arguments.kinds, arguments.prompts).items():
        found = measure(llm, variants, prompts, arguments.rounds, arguments.tokens)
        rows: list[Row] = []
        for variant, runs in found.items():
            size = llm.model.runtime.weight_bytes(variant.cascade.target)
            named_so = renamed(str(variant), arguments.alias)
            subject = Subject.ours(layout(arguments.planes), size, named_so)
            details = account(variant, runs, found[variant.plain], costs, arguments.alias)
            rows.append(
                occasion.row(subject, f"hierarchy {kind}", "tok/s", runs.speeds(), details=details)
            )
            _tell(rows[-1])
        append(arguments.output, rows)


def measure(
    llm: LLM, variants: Sequence[Variant], prompts: Sequence[Workload], rounds: int, tokens: int
) -> dict[Variant, Runs]:
    """Interleaved rounds; a first, untimed answer of each variant takes its draft prefill."""
    llms = by_variant(llm, variants)
    found = {v: Runs() for v in variants}
    _solve(llms[variants[0]], prompts[0], tokens)  # wakes the threads
    for turn in range(rounds):
        totals = {v: Statistics() for v in variants}
        for number, prompt in enumerate(prompts):
            # Each prompt starts with another variant: none always follows the same neighbour.
            shift = (number + turn) % len(variants)
            for variant in (*variants[shift:], *variants[:shift]):
                runs = found[variant]
                done = _solve(llms[variant], prompt, tokens)
                totals[variant].add(done.statistics)
                if turn == 0:
                    runs.outputs.append(done.token_ids)
                    runs.contexts.append(len(done.prompt_token_ids) + tokens / 2)
                    runs.prefills.append(_draft_prefill(llms[variant], prompt, done.statistics))
        for variant, total in totals.items():
            found[variant].rounds.append(total)
        print(f"round {turn + 1} of {rounds} done", file=sys.stderr, flush=True)
    return found


def _solve(llm: LLM, prompt: Workload, tokens: int) -> Completion:
    return answer(llm, prompt.text, tokens, chat=prompt.is_chat)


def _draft_prefill(llm: LLM, prompt: Workload, whole: Statistics) -> float:
    """What the first cycle's draft took longer than a mean one: the prompt in another model."""
    if not llm.cascade.models:
        return 0.0
    first = _solve(llm, prompt, 1 + (llm.options.draft_length or 1)).statistics
    usual = whole.draft_seconds / whole.target_forwards
    return max(0.0, first.draft_seconds - first.target_forwards * usual)


def account(
    variant: Variant,
    runs: Runs,
    plain: Runs,
    costs: dict[Stage, CostTable | None],
    names_of: dict[str, str],
) -> dict[str, Any]:
    """What a row says besides its speed."""
    total = Statistics()
    for one in runs.rounds:
        total.add(one)
    pairs = list(zip(runs.rounds, plain.rounds, strict=True))
    ratios = [ours.tokens_per_second / theirs.tokens_per_second for ours, theirs in pairs]
    prefill = sum(runs.prefills)
    without = [
        ours.decoded_tokens / (ours.decode_seconds - prefill) / theirs.tokens_per_second
        for ours, theirs in pairs
    ]
    speedup = statistics.median(ratios)
    predicted = predicted_speedup(variant, total, statistics.mean(runs.contexts), costs)
    links = {
        renamed(name, names_of): {
            "tau": link.tau,
            "draft_length": link.draft_tokens / link.cycles if link.cycles else 0.0,
            "looks_per_cycle": link.cycles / total.cycles,
            "forwards_per_cycle": link.forwards / total.target_forwards,
            "alpha": link.alpha[:8],
        }
        for name, link in total.links.items()
    }
    return {
        "draft_length": variant.draft_length,
        "inner_length": variant.inner_length,
        "speedup": speedup,
        "speedup_without_draft_prefill": statistics.median(without),
        "draft_prefill_seconds": prefill / len(runs.prefills),
        "predicted_speedup": predicted,
        "predicted_over_measured": None if predicted is None else predicted / speedup,
        "tau": total.tau,
        "links": links,
        "shares": {renamed(name, names_of): share for name, share in total.time_shares.items()},
        "identical": runs.outputs == plain.outputs,
        "prompts": len(runs.outputs),
    }


def predicted_speedup(
    variant: Variant, total: Statistics, context: float, costs: dict[Stage, CostTable | None]
) -> float | None:
    """Equation 1 with rounds: tau T(1) / (rounds T_middle(rows) + T(1 + draft length)).

    From cost tables measured apart and the run's own tau, lengths and rounds. Draft prefill is not
    in it. None: a stage has no table (a draft head).
    """
    *before, target = variant.cascade.stages
    table = costs[target]
    assert table is not None
    cycles = total.target_forwards
    seconds = table.forward_seconds(str(target), [_rows(total.draft_tokens, cycles)], [context])
    for i, stage in enumerate(before):
        judge = total.links.get(f"{stage} > {variant.cascade.stages[i + 1]}", LinkStatistics())
        if isinstance(stage, Ngram):
            continue
        own = costs[stage]
        if own is None:
            return None
        level = str(stage.level) if isinstance(stage, Model) else str(stage)
        passes = judge.forwards / cycles
        if i == 0:  # it drafts alone, a token a pass
            seconds += own.draft_seconds(level, [1], [context]) * min(1.0, passes)
            further = own.step_seconds(level, 1, first=False) + own.attention_seconds(1, context)
            seconds += max(0.0, passes - 1) * further
        else:
            inner = total.links[f"{before[i - 1]} > {stage}"]
            rows = _rows(inner.draft_tokens, max(1, inner.cycles))
            seconds += passes * own.forward_seconds(level, [rows], [context])
    plain = table.forward_seconds(str(target), [1], [context])
    return total.tau * plain / seconds


def _rows(proposed: int, looks: int) -> float:
    """Mean rows of a forward that judges: what is proposed, and the root."""
    return 1 + proposed / looks


def _costs(llm: LLM, stage: Stage) -> CostTable | None:
    """T(level, M, context) of a stage; None where it has none."""
    if isinstance(stage, Level):
        return cost_table(llm.model.runtime, llm.model.pool, llm.cascade.target)
    if isinstance(stage, Model):
        model, _ = llm.model.opened(stage)
        return cost_table(model.runtime, model.pool, Level.parse("w8a16"))
    return None


def _tell(row: Row) -> None:
    told = row.details or {}
    predicted = told["predicted_speedup"]
    lengths = ", ".join(
        f"{name}: tau {link['tau']:.2f} of {link['draft_length']:.1f}"
        for name, link in told["links"].items()
    )
    print(
        f"{row.metric:18} {row.cascade:44} {row.spread.median:7.1f} tok/s  x{told['speedup']:.2f}"
        f" (without draft prefill x{told['speedup_without_draft_prefill']:.2f}"
        + (f", predicted x{predicted:.2f})" if predicted else ")")
        + f"  identical {told['identical']}  {lengths}",
        flush=True,
    )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    add_model(parser)
    parser.add_argument("--data", type=Path, required=True, help="directory of the texts")
    parser.add_argument("--kinds", type=names, default=",".join(REPETITIVE))
    parser.add_argument(
        "--variant", action="append", required=True, help="CASCADE @LENGTH or @LENGTH/INNER"
    )
    parser.add_argument(
        "--alias", type=alias, action="append", default=[], help="PATH=NAME as rows have it"
    )
    parser.add_argument("--prompts", type=positive, default=4, help="of each kind")
    parser.add_argument("--tokens", type=positive, default=128)
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS / "hierarchy.jsonl")
    arguments = parser.parse_args()
    kinds = (*KINDS, *REPETITIVE)
    unknown = [kind for kind in arguments.kinds if kind not in kinds]
    if unknown:
        raise ArgumentError(
            "--kinds", got=unknown[0], expected=", ".join(kinds), fix="choose among those"
        )
    targets = {str(Variant.parse(text).cascade.target) for text in arguments.variant}
    if len(targets) > 1:
        raise ArgumentError(
            "--variant", got=" and ".join(sorted(targets)), expected="one target", fix="run each"
        )
    arguments.alias = dict(arguments.alias)
    return arguments


if __name__ == "__main__":
    guarded(main)
