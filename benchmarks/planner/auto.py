"""`auto` against plain and fixed cascades; predicted against measured speed-up; a load ramp.

    python -m benchmarks.planner --name smollm2-135m --model smollm2-135m --planes 8 --data DIR
    … --ramp: plain decoding and `auto` at growing batch sizes
    … --peers DIR --formats Q4_0,Q8_0 --plain w4a8: plain decoding of peers and levels beside it

One model in one process. For each kind of work and batch size, every round measures every variant
on the same queues of prompts (`measure/loop.py`), `--prompts` at least. So each measurement has its
pair: `speedup` and `of_best_fixed` are medians of paired ratios, `…_interval` their 90% confidence
intervals. Predictions use a cost table that is measured in turns with the variants, since the
machine's speed drifts from second to second.

The ramp's rows have `of_best_before`: throughput over the best of smaller batches.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure.arguments import add_model, alias, kinds, names, positive, renamed
from benchmarks.measure.loop import Runs, agree, measure, num_prompts
from benchmarks.measure.machine import pinned_cpus
from benchmarks.measure.occasion import Occasion, Subject
from benchmarks.measure.paired import Ratio
from benchmarks.measure.prediction import predicted_speedup
from benchmarks.measure.rows import RESULTS, Row, keep, layout
from benchmarks.measure.variants import AUTO, Variant, decoders
from benchmarks.measure.workloads import KINDS, Workload, load
from benchmarks.peers.contenders import LlamaBench, llama_benches
from benchmarks.planner.beside import Beside
from halfbyte import LLM
from halfbyte.api.candidates import draft_levels
from halfbyte.cascade.cascade import Cascade
from halfbyte.cascade.stages import Auto, Ngram, parse_stage
from halfbyte.config import Level
from halfbyte.planner.cost_probe import FAR, CostProbe, pages_wanted
from halfbyte.planner.cost_table import CostTable

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


def main() -> None:
    arguments = _parse()
    cpus = pinned_cpus(arguments.threads)
    os.sched_setaffinity(0, cpus)
    occasion = Occasion.begin(arguments.name, arguments.threads)
    target = Level.parse(arguments.target)
    batches = arguments.batches or (RAMP if arguments.ramp else BATCHES)
    sizes = {batch: num_prompts(batch, arguments.prompts) for batch in batches}
    work = load(arguments.data, arguments.kinds, max(sizes.values()))
    variants = [str(target), " | ".join([AUTO, *map(str, arguments.offer)])]
    if not arguments.ramp:
        variants += [text.format(target) for text in arguments.variant or FIXED]
        variants += arguments.plain
    llm = LLM(
        arguments.model,
        str(Cascade((Auto(tuple(arguments.offer)), target))),
        arguments.threads,
        planes=arguments.planes,
        max_batch=max(batches),
        num_tokens=_room(arguments, variants, sizes),
    )
    size = llm.model.runtime.weight_bytes(target)
    what = "ramp" if arguments.ramp else "offered" if arguments.offer else "workload"
    for kind, prompts in work.items():
        best: dict[str, float] = {}  # of each variant at smaller batches
        for batch in batches:
            metric = f"{what} {kind} x{batch}"
            beside = Beside(_peers(arguments, batch), cpus)
            some = prompts[: sizes[batch]]
            own: list[Row] = []
            found, table = _measured(llm, variants, some, batch, arguments, beside)
            for variant, runs in found.items():
                details = _details(table, target, batch, variant, runs, found)
                details |= beside.compare(runs)
                median = statistics.median(runs.speeds)
                if arguments.ramp and variant in best:
                    details["of_best_before"] = median / best[variant]
                best[variant] = max(median, best.get(variant, 0.0))
                for name in ("shares", "choices"):
                    details[name] = {
                        renamed(k, arguments.alias): v for k, v in details[name].items()
                    }
                shown = renamed(variant, arguments.alias)
                subject = Subject.ours(layout(arguments.planes), size, shown)
                own.append(occasion.row(subject, metric, "tok/s", runs.speeds, details=details))
            _tell(kind, batch, own)
            keep(arguments.output, [*own, *beside.rows(occasion, metric)])


def _peers(arguments: argparse.Namespace, batch: int) -> list[LlamaBench]:
    """They decode one request at a time."""
    if arguments.peers is None or batch > 1:
        return []
    return llama_benches(arguments.peers, arguments.name, arguments.formats, arguments.threads)


def _room(arguments: argparse.Namespace, variants: Sequence[str], sizes: dict[int, int]) -> int:
    """Tokens of KV: every prompt once, since variants share it, what all of them are at, and what
    the cost table is measured in."""
    decoding = len(variants) * max(sizes) * (int(arguments.tokens) + 64)
    return max(sizes.values()) * 1024 + decoding + FAR + 1024


def _measured(
    llm: LLM,
    variants: Sequence[str],
    prompts: Sequence[Workload],
    batch: int,
    arguments: argparse.Namespace,
    before: Callable[[], None],
) -> tuple[dict[str, Runs], CostTable]:
    """What every variant did, and what calls took in the same seconds."""
    tokens, rounds = arguments.tokens, arguments.rounds
    runtime, pool, target = llm.model.runtime, llm.model.pool, llm.cascade.target
    with pool.lent(pages_wanted(pool.page_size)) as pages:
        # Speeds are means, to which the machine's noise belongs.
        probe = CostProbe(runtime, target, draft_levels(runtime, target), pages, quantile=0.5)
        found = measure(
            decoders(llm, variants),
            prompts,
            batch,
            tokens=tokens,
            rounds=rounds,
            warming=variants[:2],  # plain decoding and `auto`
            before=before,
            between=probe.round,
        )
        return found, probe.table()


def _details(
    table: CostTable,
    target: Level,
    batch: int,
    variant: str,
    runs: Runs,
    found: dict[str, Runs],
) -> dict[str, Any]:
    plain = found[str(target)]
    fixed = [r for name, r in found.items() if _target(name) == str(target)]
    best = max(fixed, key=lambda r: statistics.median(r.speeds))
    stages = [] if variant.startswith(AUTO) else list(Variant.parse(variant).cascade.stages)
    simple = all(isinstance(stage, Level | Ngram) for stage in stages)
    speedup, of_best = Ratio.of(runs.queues, plain.queues), Ratio.of(runs.queues, best.queues)
    total = runs.total
    details = {
        "batch": batch,
        "target": _target(variant) or str(target),
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
        costs = dict.fromkeys(stages, table)
        predicted = predicted_speedup(Cascade(tuple(stages)), costs, runs, plain, batch)
        details["predicted_speedup"] = predicted
        if predicted is not None:
            measured = statistics.median(runs.speeds) / statistics.median(plain.speeds)
            details["predicted_over_measured"] = predicted / measured
    return details


def _target(variant: str) -> str:
    """Whose output a fixed variant has; empty for `auto`."""
    return "" if variant.startswith(AUTO) else str(Variant.parse(variant).cascade.target)


def _tell(kind: str, batch: int, rows: Sequence[Row]) -> None:
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
            + (
                f"  predicted x{predicted:.2f}, {told['predicted_over_measured']:.3f} of measured"
                if predicted
                else ""
            )
            + "".join(
                f"  {name.replace('_', ' ')} {told[name]:.3f}"
                for name in ("of_best_before", "of_peer")
                if name in told
            ),
            flush=True,
        )


def counts(text: str) -> list[int]:
    """An argparse type: counts between commas."""
    return [positive(name) for name in names(text)]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    add_model(parser)
    parser.add_argument("--data", type=Path, required=True, help="directory of the texts")
    parser.add_argument("--target", default="w8a16")
    parser.add_argument("--kinds", type=names, default=",".join(KINDS))
    parser.add_argument("--batches", type=counts, help="default: 1,4,16; of --ramp 1 to 32")
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
    parser.add_argument("--peers", type=Path, help="directory with bin/llama-bench and models/")
    parser.add_argument("--formats", type=names, default="Q4_0", help="of the peers' models")
    parser.add_argument(
        "--plain", type=names, default=[], help="other levels, decoded plainly beside"
    )
    parser.add_argument("--prompts", type=positive, default=4, help="a measurement, at least")
    parser.add_argument("--tokens", type=positive, default=128)
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS / "planner.jsonl")
    arguments = parser.parse_args()
    kinds(arguments.kinds)
    arguments.alias = dict(arguments.alias)
    for text in (*(arguments.variant or ()), *arguments.plain):
        Variant.parse(text.format(arguments.target))
    return arguments
