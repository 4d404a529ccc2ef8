"""What `auto` decides, without the machine's noise: recorded texts on the clock of a cost table.

    python -m benchmarks.replay --record RECORDINGS --name smollm2-135m --model smollm2-135m \\
        --planes 8 --data DIR
    python -m benchmarks.replay RECORDINGS --name smollm2-135m

The first records what a model and its draft levels say on each kind of work, and its cost table
here. The second, which needs no model, replays plain decoding, fixed cascades and `auto` on the
clock of that table, in the queues of `measure/loop.py`, after one untimed round. Python's own time
is not in it: on a machine a planner does worse by the time it takes to choose.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import cast

from benchmarks.measure.arguments import names, positive
from benchmarks.measure.loop import measure, queue_length
from benchmarks.measure.machine import pinned_cpus
from benchmarks.measure.occasion import Occasion, Subject
from benchmarks.measure.paired import Ratio
from benchmarks.measure.rows import RESULTS, Row, keep, layout
from benchmarks.measure.variants import AUTO, Variant
from benchmarks.measure.workloads import KINDS, load
from benchmarks.planner.auto import BATCHES, FIXED, counts
from benchmarks.replay.recorded import Recording, read, record, write
from benchmarks.replay.recorded_runtime import Clock, RecordedRuntime
from halfbyte import LLM
from halfbyte.api.candidates import cost_table, draft_levels, planner_for
from halfbyte.cascade.cascade import Cascade
from halfbyte.cascade.planning import Planner
from halfbyte.config import Level
from halfbyte.engine.engine import Engine
from halfbyte.engine.options import EngineOptions
from halfbyte.engine.pages import PagePool, PageTable
from halfbyte.engine.sequence import Sequence
from halfbyte.errors import ArgumentError, SourceError
from halfbyte.planner.cost_table import CostTable
from halfbyte.proposers.build import Proposers
from halfbyte.runtime.protocol import Runtime
from halfbyte.sampling.sampler import GREEDY

DRAFTED = 14  # tokens from each position: what any stack asks of a level
PAGES = 4096


def main() -> None:
    arguments = _parse()
    target = Level.parse(arguments.target)
    if arguments.record is not None:
        _record(arguments, target)
        return
    table = _table(arguments.recordings)
    occasion = Occasion.begin(arguments.name, threads=1)
    rows: list[Row] = []
    for kind in arguments.kinds:
        recordings = read(arguments.recordings / f"{kind}.jsonl")
        for batch in arguments.batches:
            found = replay(recordings, batch, arguments.tokens, target, table)
            rows += _rows(occasion, f"replay {kind} x{batch}", found, str(target))
    keep(arguments.output, rows)


def replay(
    recordings: Seq[Recording], batch: int, tokens: int, target: Level, table: CostTable
) -> dict[str, list[float]]:
    """Tokens per second of each queue, by variant; the first is plain decoding."""
    length = queue_length(batch)
    if len(recordings) < length:
        raise ArgumentError(
            "recordings",
            got=f"{len(recordings)}",
            expected=f"{length} for a batch of {batch}",
            fix="record more with --prompts, or leave the batch out of --batches",
        )
    found = {}
    for name in (str(target), AUTO, *(text.format(target) for text in FIXED)):
        clock = Clock()
        with clock.everywhere():
            one = {name: _Replay(name, recordings, target, table, clock, batch)}
            runs = measure(one, recordings, batch, tokens=tokens, rounds=1, warming=one)
            found[name] = runs[name].queues
    return found


class _Replay:
    """Implements `loop.Subject`: one variant, with all that it keeps from queue to queue."""

    def __init__(
        self,
        name: str,
        recordings: Seq[Recording],
        target: Level,
        table: CostTable,
        clock: Clock,
        batch: int,
    ) -> None:
        recorded = RecordedRuntime(recordings, target, table, clock, num_pages=PAGES)
        self._runtime = cast(Runtime, recorded)
        self._pool = PagePool(PAGES, self._runtime.page_size)
        self._cascade, self._options = Cascade((target,)), EngineOptions(max_batch=batch)
        proposers = Proposers(self._runtime)
        if name == AUTO:
            self._planner: Planner = planner_for(self._runtime, proposers, target, table)
        else:
            variant = Variant.parse(name)
            lengths = variant.draft_length, variant.inner_length or EngineOptions.inner_length
            self._planner = proposers.fixed_plan(variant.cascade, *lengths)

    def engine(self) -> Engine:
        """See `loop.Subject`."""
        planner = self._planner
        return Engine(self._runtime, self._pool, self._cascade, self._options, lambda _: planner)

    def sequence(self, prompt: Recording, limit: int) -> Sequence:
        """The beginning of what was recorded."""
        table = PageTable(self._pool, self._runtime.config.max_context)
        limit = min(limit, len(prompt.answer))
        stops = frozenset[int]()
        return Sequence(prompt.prompt, table=table, sampler=GREEDY, limit=limit, stop_ids=stops)


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
    llm = LLM(
        arguments.model,
        str(target),
        arguments.threads,
        planes=arguments.planes,
        num_tokens=room,
    )
    levels = draft_levels(llm.model.runtime, target)
    table = cost_table(llm.model.runtime, llm.model.pool, target, measure_again=True)
    arguments.record.mkdir(parents=True, exist_ok=True)
    for kind, prompts in work.items():
        made = list(record(llm, prompts, arguments.tokens, DRAFTED, levels))
        write(arguments.record / f"{kind}.jsonl", made)
        print(f"{kind}: {len(made)} recordings", flush=True)
    (arguments.record / "table.json").write_text(json.dumps(table.as_dict()), encoding="utf-8")


def _table(directory: Path) -> CostTable:
    path = directory / "table.json"
    try:
        return CostTable.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise SourceError(
            str(path),
            got=f"{type(error).__name__}: {error}",
            expected="the cost table of a recording",
            fix="make it with python -m benchmarks.replay --record",
        ) from error


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("recordings", nargs="?", type=Path, help="directory made with --record")
    parser.add_argument("--record", type=Path, help="directory for new recordings")
    parser.add_argument("--name", required=True, help="what rows call the model")
    parser.add_argument("--model", help="what is recorded")
    parser.add_argument("--planes", type=int, choices=(4, 8), help="convert with that many planes")
    parser.add_argument("--threads", type=positive, default=2, help="to record with")
    parser.add_argument("--data", type=Path, help="directory of the texts, to record")
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
