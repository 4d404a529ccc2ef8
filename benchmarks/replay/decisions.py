"""What `auto` decides, weighed without the machine's noise: recorded texts on a clock of costs.

    python -m benchmarks.replay --record RECORDINGS --name smollm2-135m --model smollm2-135m \\
        --planes 8 --data DIR
    python -m benchmarks.replay RECORDINGS --name smollm2-135m

The first records what a model and its draft levels say on each kind of work, and its cost table
here. The second, which needs no model, replays plain decoding, fixed cascades and `auto` on the
clock of that table, in the queues of `measure/loop.py`. Each has gone through the queues once
before. Python's time is in it as a constant per call and sequence (`host.py`).

With `--offer model:PATH@LEVEL --alias PATH=NAME` the first also records what another model would
draft, and in the second that model is offered to `auto`. It reads every prompt anew.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from dataclasses import asdict
from pathlib import Path

from benchmarks.measure.arguments import alias, names, positive, renamed
from benchmarks.measure.machine import pinned_cpus
from benchmarks.measure.occasion import Occasion, Subject
from benchmarks.measure.paired import Ratio
from benchmarks.measure.rows import RESULTS, Row, keep, layout
from benchmarks.measure.variants import AUTO
from benchmarks.measure.workloads import KINDS, load
from benchmarks.planner.auto import BATCHES, counts
from benchmarks.replay.decoding import Setting, read_offers, read_table, replay
from benchmarks.replay.recorded import read, record, write
from halfbyte import LLM
from halfbyte.api.candidates import cost_table, draft_levels
from halfbyte.cascade.stages import Model, parse_stage
from halfbyte.config import Level

DRAFTED = 14  # tokens from each position: what any stack asks of a level


def main() -> None:
    arguments = _parse()
    target = Level.parse(arguments.target)
    if arguments.record is not None:
        _record(arguments, target)
        return
    table = read_table(arguments.table or arguments.recordings / "table.json")
    offers = read_offers(arguments.recordings)
    setting = Setting(target, table, table, arguments.tokens, offers=offers)
    occasion = Occasion.begin(arguments.name, threads=1)
    rows: list[Row] = []
    for kind in arguments.kinds:
        recordings = read(arguments.recordings / f"{kind}.jsonl")
        for batch in arguments.batches:
            found = replay(recordings, batch, setting)
            rows += _rows(occasion, f"replay {kind} x{batch}", found, str(target))
    keep(arguments.output, rows)


def _rows(occasion: Occasion, metric: str, found: dict[str, list[float]], plain: str) -> list[Row]:
    mean = {name: statistics.harmonic_mean(speeds) for name, speeds in found.items()}
    best = max((name for name in found if name != AUTO), key=lambda name: mean[name])
    rows = []
    for name, speeds in found.items():
        speedup, of_best = mean[name] / mean[plain], mean[name] / mean[best]
        details = {"speedup": speedup, "of_best_fixed": of_best, "best_fixed": best}
        details["speedup_interval"] = Ratio.of(speeds, found[plain]).interval
        subject = Subject.ours(layout(None), 0, name)
        rows.append(occasion.row(subject, metric, "tok/s", speeds, details=details))
        if name == AUTO:
            told = f"x{speedup:.3f} of plain, {of_best:.3f} of {best}"
            print(f"{metric:20} {mean[name]:8.1f} tok/s  {told}", flush=True)
    return rows


def _record(arguments: argparse.Namespace, target: Level) -> None:
    os.sched_setaffinity(0, pinned_cpus(arguments.threads))
    work = load(arguments.data, arguments.kinds, arguments.prompts)
    room = arguments.prompts * (arguments.tokens + 1024)
    options = {"planes": arguments.planes, "num_tokens": room}
    llm = LLM(arguments.model, str(target), arguments.threads, **options)
    levels = draft_levels(llm.model.runtime, target)
    table = cost_table(llm.model.runtime, llm.model.pool, target, measure_again=True)
    arguments.record.mkdir(parents=True, exist_ok=True)
    _write_table(arguments.record / "table.json", asdict(table))
    offers: dict[str, LLM] = {}
    for n, stage in enumerate(arguments.offer):
        name, level = renamed(str(stage), dict(arguments.alias)), str(stage.level)
        offers[name] = model = LLM(stage.path, level, arguments.threads, **options)
        table = cost_table(model.model.runtime, model.model.pool, stage.level, drafts=[stage.level])
        _write_table(arguments.record / f"offer-{n}.json", {"stage": name, **asdict(table)})
    for kind, prompts in work.items():
        made = list(record(llm, prompts, arguments.tokens, DRAFTED, levels, offers))
        write(arguments.record / f"{kind}.jsonl", made)
        print(f"{kind}: {len(made)} recordings", flush=True)


def _write_table(path: Path, values: dict[str, object]) -> None:
    path.write_text(json.dumps(values), encoding="utf-8")


def _offer(text: str) -> Model:
    """An argparse type: a model beside the target."""
    stage = parse_stage(text)
    if not isinstance(stage, Model):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected model:PATH@LEVEL")
    return stage


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("recordings", nargs="?", type=Path, help="directory made with --record")
    parser.add_argument("--record", type=Path, help="directory for new recordings")
    parser.add_argument("--name", required=True, help="what rows call the model")
    parser.add_argument("--model", help="what is recorded")
    parser.add_argument("--planes", type=int, choices=(4, 8), help="convert with that many planes")
    parser.add_argument("--threads", type=positive, default=2, help="to record with")
    parser.add_argument("--data", type=Path, help="directory of the texts, to record")
    parser.add_argument(
        "--offer", type=_offer, action="append", default=[], help="model:PATH@LEVEL, to record"
    )
    parser.add_argument(
        "--alias", type=alias, action="append", default=[], help="PATH=NAME as rows have it"
    )
    parser.add_argument("--table", type=Path, help="a cost table in the place of the recorded one")
    parser.add_argument("--target", default="w8a16")
    parser.add_argument("--kinds", type=names, default=",".join(KINDS))
    parser.add_argument("--batches", type=counts, default=BATCHES)
    parser.add_argument("--prompts", type=positive, default=32, help="of each kind, to record")
    parser.add_argument("--tokens", type=positive, default=128)
    parser.add_argument("--output", type=Path, default=RESULTS / "replay.jsonl")
    arguments = parser.parse_args()
    if arguments.record is None and arguments.recordings is None:
        parser.error("got no directory, expected RECORDINGS, or --record DIR to make them")
    if arguments.record is not None and not (arguments.model and arguments.data):
        parser.error("--record needs --model and --data")
    return arguments
