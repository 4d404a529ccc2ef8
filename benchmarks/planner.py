"""`auto` against plain and fixed cascades; predicted against measured speed-up; a load ramp.

    python -m benchmarks.planner --name smollm2-135m --model smollm2-135m --planes 8 --data DIR
    … --ramp: plain decoding and `auto` at growing batch sizes

One model in one process. For each kind of work and batch size, every round measures every variant
on the same prompts, `--prompts` at least. They stand in queues of one prompt, or two for each place
of a batch, and the variants take turns queue by queue, since a machine shared with others is a
fifth slower for seconds on end. So each measurement has its pair: `speedup` and `of_best_fixed` are
medians of paired ratios, and `…_interval` is between what they lie with 90% confidence. An untimed
round comes first, in which `auto` learns.

The batch stays full, as one that has long been running: the first requests end one after another,
cut short, and when one ends the next of the queue begins, from its start again where need be, until
so many tokens have come as the queue has. From the first round on prompts are in the
prefix cache, so that what is measured is decoding.

The ramp's rows have `of_best_before`: throughput over the best of smaller batches.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

from benchmarks.arguments import add_model, alias, names, positive, renamed
from benchmarks.machine import pinned_cpus
from benchmarks.occasion import Occasion, Subject
from benchmarks.paired import Ratio
from benchmarks.process import guarded
from benchmarks.rows import RESULTS, Row, append, layout
from benchmarks.speculation import Variant, by_variant
from benchmarks.workloads import KINDS, REPETITIVE, Workload, load, token_ids
from halfbyte import LLM, SamplingParams
from halfbyte.auto import cost_table
from halfbyte.cascade.cascade import Cascade
from halfbyte.cascade.costs import CostTable
from halfbyte.cascade.stages import Auto, Ngram, parse_stage
from halfbyte.cascade.statistics import Statistics
from halfbyte.config import Level
from halfbyte.errors import ArgumentError
from halfbyte.request import Request

AUTO = "auto"
FIXED = (
    "w4a8 > {} @1",
    "w4a8 > {} @2",
    "w4a8 > {} @3",
    "w4a8 > {} @4",
    "w4a8 > {} @6",
    "ngram > {} @2",
    "ngram > {} @4",
    "ngram > {} @8",
    "ngram > w4a8 > {} @5/4",
)
BATCHES = (1, 4, 16)
RAMP = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
QUEUED = 2  # prompts for each place of a batch, from 2 on


@dataclass(slots=True)
class Runs:
    """One variant on one kind of work at one batch size."""

    speeds: list[float] = field(default_factory=list)  # tokens/s of each round
    total: Statistics = field(default_factory=Statistics)
    outputs: list[list[int]] = field(default_factory=list)  # of the first round
    cycles: Counter[tuple[int, int]] = field(default_factory=Counter)  # (sequences, proposed)
    queues: list[float] = field(default_factory=list)  # tokens/s of each queue of each round
    contexts: list[float] = field(default_factory=list)  # halfway through decoding

    @property
    def context(self) -> float:
        """Their mean."""
        return statistics.mean(self.contexts)


def main() -> None:
    arguments = _parse()
    os.sched_setaffinity(0, pinned_cpus(arguments.threads))
    occasion = Occasion.begin(arguments.name, arguments.threads)
    target = Level.parse(arguments.target)
    batches = arguments.batches or (RAMP if arguments.ramp else BATCHES)
    counts = {batch: num_prompts(batch, arguments.prompts) for batch in batches}
    work = load(arguments.data, arguments.kinds, max(counts.values()))
    llm = LLM(
        arguments.model,
        str(Cascade((Auto(tuple(arguments.offer)), target))),
        arguments.threads,
        planes=arguments.planes,
        max_batch=max(batches),
        num_tokens=max(counts.values()) * (arguments.tokens + 1024),
    )
    runtime = llm.model.runtime
    table = cost_table(runtime, llm.model.pool, target, measure_again=True)
    auto = " | ".join([AUTO, *map(str, arguments.offer)])
    variants = [str(target), auto]
    what = "ramp" if arguments.ramp else "offered" if arguments.offer else "workload"
    if not arguments.ramp:
        variants += [text.format(target) for text in arguments.variant or FIXED]
    rows: list[Row] = []
    for kind, prompts in work.items():
        best: dict[str, float] = {}  # of each variant at smaller batches
        for batch in batches:
            found = measure(llm, variants, prompts[: counts[batch]], batch, arguments)
            for variant, runs in found.items():
                details = _details(table, target, batch, variant, runs, found)
                median = statistics.median(runs.speeds)
                if arguments.ramp and variant in best:
                    details["of_best_before"] = median / best[variant]
                best[variant] = max(median, best.get(variant, 0.0))
                size = runtime.weight_bytes(target)
                shown = renamed(variant, arguments.alias)
                subject = Subject.ours(layout(arguments.planes), size, shown)
                metric = f"{what} {kind} x{batch}"
                rows.append(occasion.row(subject, metric, "tok/s", runs.speeds, details=details))
            _tell(kind, batch, found, rows[-len(found) :])
    append(arguments.output, rows)


def num_prompts(batch: int, least: int) -> int:
    """Of a round: whole queues."""
    length = queue_length(batch)
    return -(-least // length) * length


def queue_length(batch: int) -> int:
    """Prompts that one measurement begins with."""
    return 1 if batch == 1 else QUEUED * batch


def measure(
    llm: LLM,
    variants: Sequence[str],
    prompts: Sequence[Workload],
    batch: int,
    arguments: argparse.Namespace,
) -> dict[str, Runs]:
    """Interleaved rounds; the first, untimed, warms up and lets `auto` learn the work."""
    subjects = {name: _subject(llm, name) for name in variants}
    found = {name: Runs() for name in variants}
    for turn in range(arguments.rounds + 1):
        this = {name: Runs() for name in variants}
        length = queue_length(batch)
        for number, at in enumerate(range(0, len(prompts), length)):
            # Another variant begins each time: none always follows the same neighbour.
            shift = (turn + number) % len(variants)
            for name in [*variants[shift:], *variants[:shift]]:
                queue = prompts[at : at + length]
                _decode(subjects[name], queue, batch, arguments.tokens, this[name])
        for name, run in this.items():
            if turn == 0:
                found[name].outputs, found[name].contexts = run.outputs, run.contexts
                continue
            found[name].speeds.append(statistics.harmonic_mean(run.queues))
            found[name].queues += run.queues
            found[name].total.add(run.total)
            found[name].cycles += run.cycles
        print(f"round {turn} of {arguments.rounds} done", file=sys.stderr, flush=True)
    return found


def _subject(llm: LLM, name: str) -> LLM:
    if name.startswith(AUTO):
        return llm
    variant = Variant.parse(name)
    return by_variant(llm, [variant])[variant].with_cascade(variant.cascade, prefix_cache=True)


def _decode(llm: LLM, queue: Sequence[Workload], batch: int, tokens: int, run: Runs) -> None:
    """A queue of prompts; adds its speed, outputs, statistics, cycles and contexts halfway."""
    engine, sequences, following = llm.engine(), [], cycle(queue)
    seen, wanted = engine.statistics, len(queue) * (tokens - 1)
    try:
        while seen.emitted_tokens - seen.prefill_emitted < wanted:
            while engine.num_waiting + engine.num_running < batch:
                # The first ones end one after another, as in a batch that has long been running.
                length = max(1, tokens * min(len(sequences) + 1, batch) // batch)
                params = SamplingParams(temperature=0.0, max_tokens=length, ignore_eos=True)
                request = Request(llm.model, token_ids(llm, next(following)), params)
                sequences.append(request.sequence)
                engine.add(sequences[-1])
            size, proposed, before = seen.cycles, seen.draft_tokens, seen.target_forwards
            engine.step()
            if seen.cycles > size:
                forwards = seen.target_forwards - before  # several in a burst, all plain
                sequences_each = math.ceil((seen.cycles - size) / forwards)
                run.cycles[sequences_each, seen.draft_tokens - proposed] += forwards
    finally:
        engine.close()
    run.total.add(seen)
    run.queues.append(seen.tokens_per_second)
    run.outputs += [s.emitted for s in sequences[: len(queue)]]
    run.outputs += [[] for _ in queue[len(sequences) :]]
    run.contexts += [s.prompt_len + tokens / 2 for s in sequences]


def agree(ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]]) -> bool:
    """Whether outputs are the same as far as both came; the last of a queue are cut off."""
    pairs = list(zip(ours, theirs, strict=True))
    same = all(a[: len(b)] == b[: len(a)] for a, b in pairs)
    return same and any(a and b for a, b in pairs)


def predicted_speedup(
    table: CostTable, target: Level, batch: int, level: str, runs: Runs
) -> float | None:
    """SpecMQuant's equation 1 from the table and the run's own tau, drafts and rows of each cycle.

    T is a staircase: the cost of a mean cycle is not the mean cost.
    """
    total = runs.total
    if not total.cycles or not total.target_forwards:
        return None
    context, name = runs.context, str(target)
    one = table.attention_seconds(1, context)
    plain = table.linear_seconds(name, batch) + batch * one
    seconds = 0.0
    for (size, proposed), count in runs.cycles.items():
        verify = table.linear_seconds(name, size + proposed)
        verify += size * table.attention_seconds(1 + proposed / size, context)
        seconds += count * verify
    if level in table.drafts:
        size = total.cycles / total.target_forwards  # sequences of a mean cycle
        first = table.step_seconds(level, size, first=True) + size * one
        further = table.step_seconds(level, size, first=False) + size * one
        calls = min(total.draft_forwards, total.target_forwards)
        seconds += calls * first + (total.draft_forwards - calls) * further
    return (total.cycles + total.accepted_tokens) / batch * plain / seconds


def _details(
    table: CostTable,
    target: Level,
    batch: int,
    variant: str,
    runs: Runs,
    found: dict[str, Runs],
) -> dict[str, Any]:
    plain = found[str(target)]
    fixed = [r for name, r in found.items() if not name.startswith(AUTO)]
    best = max(fixed, key=lambda r: statistics.median(r.speeds))
    stages = [] if variant.startswith(AUTO) else list(Variant.parse(variant).cascade.stages)
    simple = all(isinstance(stage, Level | Ngram) for stage in stages)
    speedup, of_best = Ratio.of(runs.queues, plain.queues), Ratio.of(runs.queues, best.queues)
    total = runs.total
    details = {
        "batch": batch,
        "pairs": len(runs.queues),
        "speedup": speedup.median,
        "speedup_interval": speedup.interval,
        "of_best_fixed": of_best.median,
        "of_best_fixed_interval": of_best.interval,
        "tau": total.tau,
        "alpha": total.alpha,
        "identical": agree(runs.outputs, plain.outputs),
        "shares": total.time_shares,
        "choices": {name: link.cycles for name, link in total.links.items()},
        "table_spread": table.spread,
    }
    if 0 < len(stages) <= 2 and simple:
        details["predicted_speedup"] = predicted_speedup(table, target, batch, str(stages[0]), runs)
    return details


def _tell(kind: str, batch: int, found: dict[str, Runs], rows: Sequence[Row]) -> None:
    for row in sorted(rows, key=lambda row: -row.spread.median):
        told = row.details or {}
        predicted = told.get("predicted_speedup")
        speedup, of_best = (
            f"{told[name]:.3f} ({low:.3f} to {high:.3f})"
            for name in ("speedup", "of_best_fixed")
            for low, high in (told[f"{name}_interval"],)
        )
        print(
            f"{kind:6} x{batch:<3} {row.cascade:30} {row.spread.median:8.1f} tok/s"
            f"  x{speedup}  of best fixed {of_best}"
            f"  tau {told['tau']:.2f}  identical {told['identical']}"
            + (f"  predicted x{predicted:.2f}" if predicted else "")
            + (
                f"  of best before {told['of_best_before']:.3f}" if "of_best_before" in told else ""
            ),
            flush=True,
        )


def _counts(text: str) -> list[int]:
    """An argparse type: counts between commas."""
    return [positive(name) for name in names(text)]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    add_model(parser)
    parser.add_argument("--data", type=Path, required=True, help="directory of the texts")
    parser.add_argument("--target", default="w8a16")
    parser.add_argument("--kinds", type=names, default=",".join(KINDS))
    parser.add_argument("--batches", type=_counts, help="default: 1,4,16; of --ramp 1 to 32")
    parser.add_argument(
        "--variant", action="append", help="CASCADE @LENGTH or @LENGTH/INNER; {} is the target"
    )
    parser.add_argument(
        "--offer", type=parse_stage, action="append", default=[], help="to auto: model:PATH@LEVEL"
    )
    parser.add_argument(
        "--alias", type=alias, action="append", default=[], help="PATH=NAME as rows have it"
    )
    parser.add_argument("--ramp", action="store_true", help="auto and plain over growing batches")
    parser.add_argument("--prompts", type=positive, default=4, help="a measurement, at least")
    parser.add_argument("--tokens", type=positive, default=128)
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument(
        "--output",
        type=Path,
        help="default: planner.jsonl; with offers, beside other second models",
    )
    arguments = parser.parse_args()
    if arguments.output is None:
        name = "hierarchy.jsonl" if arguments.offer else "planner.jsonl"
        arguments.output = RESULTS / name
    kinds = (*KINDS, *REPETITIVE)
    unknown = [kind for kind in arguments.kinds if kind not in kinds]
    if unknown:
        raise ArgumentError(
            "--kinds", got=unknown[0], expected=", ".join(kinds), fix="choose among those"
        )
    arguments.alias = dict(arguments.alias)
    for text in arguments.variant or ():
        Variant.parse(text.format(arguments.target))
    return arguments


if __name__ == "__main__":
    guarded(main)
