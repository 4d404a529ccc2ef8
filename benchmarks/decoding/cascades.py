"""Cascades against plain decoding at the same target, one sequence at a time.

    python -m benchmarks.decoding.cascades --name smollm2-135m --model smollm2-135m --planes 8 \\
        --data DIR --kinds code,quotes --variant 'ngram > w4a8 > w8a16 @8/4'

Beside speed a row has, of every link of the cascade, tokens per look and draft length, its share of
the time, and what equation 1 predicts from separately timed forwards (`measure/prediction.py`).
Decoding is what is measured: the time a draft model needs to read a prompt stands apart.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure.arguments import add_model, alias, kinds, names, positive, renamed
from benchmarks.measure.loop import Runs, agree, measure
from benchmarks.measure.machine import pinned_cpus
from benchmarks.measure.occasion import Occasion, Subject
from benchmarks.measure.paired import Ratio
from benchmarks.measure.prediction import predicted_speedup, stage_costs
from benchmarks.measure.process import guarded, run
from benchmarks.measure.rows import RESULTS, Row, keep, layout
from benchmarks.measure.variants import Variant, decoders
from benchmarks.measure.workloads import Workload, load, token_ids
from halfbyte import LLM, SamplingParams
from halfbyte.cascade.cascade import Cascade
from halfbyte.errors import ArgumentError

# The nested pair at several draft lengths, QSpec's pair, and the pair of equal bytes.
VARIANTS = (
    "w4a8 > w8a16 @2",
    "w4a8 > w8a16 @3",
    "w4a8 > w8a16 @4",
    "w4a8 > w8a16 @5",
    "ngram > w4a8 > w8a16 @5/4",
)


def main() -> None:
    arguments = _parse()
    cpus = pinned_cpus(arguments.threads)
    os.sched_setaffinity(0, cpus)
    variants = [Variant.parse(text) for text in arguments.variant]
    variants = list(dict.fromkeys([v.plain for v in variants] + variants))
    occasion = Occasion.begin(arguments.name, arguments.threads)
    llm = LLM(arguments.model, str(variants[0].cascade), arguments.threads, planes=arguments.planes)
    memory = _memory(arguments, variants, cpus) if arguments.memory else {}
    subjects = decoders(llm, map(str, variants))
    for kind, prompts in load(arguments.data, arguments.kinds, arguments.prompts).items():
        found = measure(
            subjects,
            prompts,
            1,
            tokens=arguments.tokens,
            rounds=arguments.rounds,
            warming=subjects.keys(),
        )
        rows: list[Row] = []
        for variant in variants:
            runs, plain = found[str(variant)], found[str(variant.plain)]
            details = account(llm, variant, runs, plain, prompts, memory)
            size = llm.model.runtime.weight_bytes(variant.cascade.target)
            shown = renamed(str(variant), arguments.alias)
            subject = Subject.ours(layout(arguments.planes), size, shown)
            details = _without_paths(details, arguments.alias)
            rows.append(
                occasion.row(subject, f"cascade {kind}", "tok/s", runs.speeds, details=details)
            )
            _tell(rows[-1])
        keep(arguments.output, rows)


def account(
    llm: LLM,
    variant: Variant,
    runs: Runs,
    plain: Runs,
    prompts: Sequence[Workload],
    memory: dict[Cascade, int],
) -> dict[str, Any]:
    """What a row says besides its speed."""
    total, cascade = runs.total, variant.cascade
    speedup = Ratio.of(runs.queues, plain.queues)
    predicted = None
    if variant.draft_length:
        predicted = predicted_speedup(cascade, stage_costs(llm, cascade), runs, plain)
    links = {
        name: {
            "tau": link.tau,
            "draft_length": link.draft_tokens / link.cycles if link.cycles else 0.0,
            "looks_per_cycle": link.cycles / total.cycles,
            "forwards_per_cycle": link.forwards / total.target_forwards,
            "alpha": link.alpha[:8],
        }
        for name, link in total.links.items()
    }
    details = {
        "draft_length": variant.draft_length,
        "inner_length": variant.inner_length,
        "speedup": speedup.median,
        "speedup_interval": speedup.interval,
        "draft_prefill_seconds": draft_prefill(llm, variant, prompts),
        "predicted_speedup": predicted,
        "predicted_over_measured": None if predicted is None else predicted / speedup.median,
        "tau": total.tau,
        "alpha": total.alpha[:8],
        "links": links,
        "shares": total.time_shares,
        "bytes_per_token": total.bytes_per_token(llm.model.runtime.weight_bytes(cascade.target)),
        "identical": agree(runs.outputs, plain.outputs),
        "prompts": len(runs.outputs),
    }
    return details | ({"resident_bytes": memory[cascade]} if cascade in memory else {})


def draft_prefill(llm: LLM, variant: Variant, prompts: Sequence[Workload]) -> float:
    """Seconds in which a model before the target reads a prompt, mean over prompts.

    Its first cycle without a prefix cache, less the same one with the prompt in it.
    """
    if not variant.cascade.models:
        return 0.0
    cold, warm = (variant.of(llm, prefix_cache=cached) for cached in (False, True))
    wanted = 1 + variant.draft_length
    params = SamplingParams(temperature=0.0, max_tokens=wanted, ignore_eos=True)
    seconds = []
    for prompt in prompts:
        ids = token_ids(llm, prompt)
        warm.generate(ids, params)  # the prompt is in both caches from here on
        took = [one.generate(ids, params)[0].statistics.draft_seconds for one in (cold, warm)]
        seconds.append(max(0.0, took[0] - took[1]))
    return statistics.mean(seconds)


def _without_paths(details: dict[str, Any], names_of: dict[str, str]) -> dict[str, Any]:
    """Links and shares with models' names for their paths."""
    shown = {
        key: {renamed(name, names_of): value for name, value in details[key].items()}
        for key in ("links", "shares")
    }
    return details | shown


def _memory(
    arguments: argparse.Namespace, variants: Sequence[Variant], cpus: Sequence[int]
) -> dict[Cascade, int]:
    """Resident bytes of a fresh process that decodes under each cascade."""
    found = {}
    for cascade in dict.fromkeys(v.cascade for v in variants):
        command = [sys.executable, "-m", "benchmarks.decoding.worker", "memory", arguments.model]
        command += ["--cascade", str(cascade), "--threads", str(arguments.threads)]
        if arguments.planes:
            command += ["--planes", str(arguments.planes)]
        told = json.loads(run(command, cpus, {}).output)
        found[cascade] = int(told["memory"]["anonymous"])
    return found


def _tell(row: Row) -> None:
    told = row.details or {}
    predicted = told["predicted_speedup"]
    lengths = ", ".join(
        f"{name}: tau {link['tau']:.2f} of {link['draft_length']:.1f}"
        for name, link in told["links"].items()
    )
    print(
        f"{row.metric:16} {row.cascade:44} {row.spread.median:7.1f} tok/s  x{told['speedup']:.2f}"
        + (f" (predicted x{predicted:.2f})" if predicted else "")
        + f"  identical {told['identical']}  {lengths}",
        flush=True,
    )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    add_model(parser)
    parser.add_argument(
        "--variant", action="append", help="LEVEL, CASCADE @LENGTH or @LENGTH/INNER"
    )
    parser.add_argument("--data", type=Path, help="directory of the texts; default: built-in ones")
    parser.add_argument("--kinds", type=names, default="code,maths,chat")
    parser.add_argument(
        "--alias", type=alias, action="append", default=[], help="PATH=NAME in rows"
    )
    parser.add_argument("--memory", action="store_true", help="resident memory of each cascade")
    parser.add_argument("--prompts", type=positive, default=4, help="of each kind")
    parser.add_argument("--tokens", type=positive, default=128)
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS / "cascades.jsonl")
    arguments = parser.parse_args()
    arguments.variant = arguments.variant or VARIANTS
    kinds(arguments.kinds)
    targets = {str(Variant.parse(text).cascade.target) for text in arguments.variant}
    if len(targets) > 1:
        raise ArgumentError(
            "--variant", got=" and ".join(sorted(targets)), expected="one target", fix="run each"
        )
    arguments.alias = dict(arguments.alias)
    return arguments


if __name__ == "__main__":
    guarded(main)
