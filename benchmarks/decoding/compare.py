"""Halfbyte and its peers, plain decoding: separate processes, interleaved, pinned alike.

    python -m benchmarks.decoding.compare --name smollm2-135m --model smollm2-135m --planes 8 \\
        --peers DIR

Every round of a test asks every contender once, so a slow spell of the machine hits them all.
What DIR holds: benchmarks/README.md, Peers.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure.arguments import add_model, add_peers, names
from benchmarks.measure.machine import commit, describe, pinned_cpus
from benchmarks.measure.occasion import Occasion, Subject
from benchmarks.measure.process import guarded, run
from benchmarks.measure.rows import RESULTS, Row, keep
from benchmarks.peers.contenders import Contender, Halfbyte, Reading, Task, llama_benches
from halfbyte.evaluate.provenance import now

TASKS = {
    "decode": Task("decode", 128, 16),
    "prefill": Task("prefill", 512),
    "depth": Task("decode", 64, 4096, repeats=2),
}
DISTURBED = 0.1  # CPU seconds of others per second: a run above it is named on stderr


def main() -> None:
    arguments = _parse()
    cpus = pinned_cpus(arguments.threads)
    # The measurement itself must not sit on other cores than the engines measured.
    os.sched_setaffinity(0, cpus)
    contenders: list[Contender] = [
        Halfbyte(arguments.model, level, arguments.threads, arguments.planes)
        for level in arguments.levels
    ]
    if arguments.peers:
        contenders += llama_benches(
            arguments.peers, arguments.name, arguments.formats, arguments.threads
        )
    tests = [TASKS[name] for name in arguments.tests]
    machine = describe(arguments.threads)
    for test in tests:
        rows = compare(contenders, test, cpus, arguments.processes, arguments.name, machine)
        # Written test by test: a run that is stopped keeps what it finished.
        keep(arguments.output, rows)
        for row in rows:
            spread = row.spread
            print(
                f"{row.engine:22} {row.format:10} {row.cascade:6} {row.metric:18} "
                f"{spread.median:8.1f} {row.unit}  {spread.min:.1f}-{spread.max:.1f} n={spread.n}",
                flush=True,
            )


def compare(
    contenders: Sequence[Contender],
    test: Task,
    cpus: Sequence[int],
    processes: int,
    model: str,
    machine: dict[str, Any],
) -> list[Row]:
    """`processes` rounds of the test by every contender; one row each."""
    values: list[list[tuple[Reading, float]]] = [[] for _ in contenders]
    occasion = Occasion(commit(), now(), machine, model)
    for turn in range(processes):
        for contender, own in zip(contenders, values, strict=True):
            done = run(contender.command(test), cpus, contender.environment)
            own.append((contender.read(done.output), done.foreign))
            _tell(turn, test, contender, own[-1])
    return [
        _row(contender, test, own, occasion)
        for contender, own in zip(contenders, values, strict=True)
    ]


def _row(
    contender: Contender,
    test: Task,
    values: Sequence[tuple[Reading, float]],
    occasion: Occasion,
) -> Row:
    last = values[-1][0]
    return occasion.row(
        Subject(
            contender.engine, last.version, contender.format, last.num_bytes, contender.cascade
        ),
        test.metric,
        "tok/s",
        [reading.value for reading, _ in values],
        foreign=statistics.median(foreign for _, foreign in values),
        details=last.details,
    )


def _tell(turn: int, test: Task, contender: Contender, value: tuple[Reading, float]) -> None:
    reading, foreign = value
    name = f"{contender.engine} {contender.cascade or contender.format}"
    note = f"  disturbed: {foreign:.2f} CPU of others" if foreign > DISTURBED else ""
    line = f"{turn + 1}  {test.metric:18} {name:30} {reading.value:8.1f} tok/s{note}"
    print(line, file=sys.stderr, flush=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    add_model(parser)
    add_peers(parser, formats="Q4_0-pure,Q4_0,Q8_0", levels="w4a8,w8a8,w8a16")
    parser.add_argument("--tests", type=names, default="decode,prefill,depth")
    parser.add_argument("--output", type=Path, default=RESULTS / "compare.jsonl")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.tests if name not in TASKS]
    if unknown:
        parser.error(f"--tests {unknown[0]}: expected {', '.join(TASKS)}")
    return arguments


if __name__ == "__main__":
    guarded(main)
