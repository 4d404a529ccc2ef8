"""What a forward costs by level and rows, and how near linear layers come to the memory's speed.

    python -m benchmarks.decoding.costs --name smollm2-135m --model smollm2-135m --planes 8 \\
        --peers DIR

A peer's forward of M rows is its prefill of M tokens after the same context: it computes the logits
of one row where halfbyte computes and samples all M, so the peer is flattered.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.measure.arguments import add_model, add_peers, positive
from benchmarks.measure.machine import pinned_cpus
from benchmarks.measure.occasion import Occasion, Subject
from benchmarks.measure.process import guarded, run
from benchmarks.measure.rows import RESULTS, Row, keep, layout
from benchmarks.peers.contenders import LlamaBench, Task, llama_benches

PEER_ROWS = (1, 2, 4, 8)
SYNTHETIC = "synthetic"  # the format of layers with random weights
Values = dict[tuple[Subject, str, str], list[float]]  # subject, metric, unit ->


def main() -> None:
    arguments = _parse()
    cpus = pinned_cpus(arguments.threads)
    os.sched_setaffinity(0, cpus)
    peers: list[LlamaBench] = []
    if arguments.peers:
        formats = arguments.formats
        found = llama_benches(arguments.peers, arguments.name, formats, arguments.threads)
        # ik's program takes no depth before a prefill.
        peers = [peer for peer in found if not peer.is_ik]
    occasion = Occasion.begin(arguments.name, arguments.threads)
    values: Values = defaultdict(list)
    foreign = []
    for turn in range(arguments.processes):
        foreign.append(_own_curve(arguments, cpus, values))
        if not arguments.no_linear:
            foreign.append(_own_linear(arguments, cpus, values))
        for peer in peers:
            foreign.append(_peer_curve(peer, arguments.depth, cpus, values))
        print(f"round {turn + 1} of {arguments.processes} done", file=sys.stderr, flush=True)
    rows = _rows(occasion, values, statistics.median(foreign))
    keep(arguments.output, rows)
    for row in rows:
        name = f"{row.engine} {row.cascade or row.format}"
        print(f"{name:30} {row.metric:22} {row.spread.median:9.3f} {row.unit}")


def _own_curve(arguments: argparse.Namespace, cpus: Sequence[int], values: Values) -> float:
    command = [sys.executable, "-m", "benchmarks.decoding.worker", "cost", arguments.model]
    command += ["--levels", ",".join(arguments.levels), "--depth", str(arguments.depth)]
    command += ["--threads", str(arguments.threads)]
    if arguments.planes:
        command += ["--planes", str(arguments.planes)]
    done = run(command, cpus, {})
    found = json.loads(done.output)
    for level, curve in found["milliseconds"].items():
        subject = Subject.ours(layout(arguments.planes), found["bytes"][level], level)
        for count, milliseconds in curve.items():
            metric = f"draft @ {arguments.depth}"
            if count != "draft":
                metric = f"forward {count} @ {arguments.depth}"
            values[subject, metric, "ms"].append(milliseconds)
    return done.foreign


def _own_linear(arguments: argparse.Namespace, cpus: Sequence[int], values: Values) -> float:
    command = [sys.executable, "-m", "benchmarks.decoding.worker", "linear"]
    command += ["--levels", ",".join(arguments.levels), "--threads", str(arguments.threads)]
    done = run(command, cpus, {})
    for level, found in json.loads(done.output)["linear"].items():
        subject = Subject.ours(SYNTHETIC, found["bytes"], level)
        for name, unit in (("gbs", "GB/s"), ("bandwidth_gbs", "GB/s"), ("share", "of reading")):
            values[subject, f"linear {name}", unit].append(found[name])
    return done.foreign


def _peer_curve(peer: LlamaBench, depth: int, cpus: Sequence[int], values: Values) -> float:
    foreign = []
    for count in PEER_ROWS:
        test = Task("prefill", count, depth, repeats=20)
        done = run(peer.command(test), cpus, peer.environment)
        reading = peer.read(done.output)
        subject = Subject(peer.engine, reading.version, peer.format, reading.num_bytes)
        values[subject, f"forward {count} @ {depth}", "ms"].append(count / reading.value * 1e3)
        foreign.append(done.foreign)
    return statistics.median(foreign)


def _rows(occasion: Occasion, values: Values, foreign: float) -> list[Row]:
    synthetic = replace(occasion, model="8B-wide layers")
    rows = []
    for (subject, metric, unit), found in values.items():
        about = synthetic if subject.format == SYNTHETIC else occasion
        rows.append(about.row(subject, metric, unit, found, foreign=foreign))
    return rows


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    add_model(parser)
    add_peers(parser, formats="Q4_0-pure,Q8_0", levels="w4a4,w4a8,w4a16,w8a8,w8a16")
    parser.add_argument("--depth", type=positive, default=128)
    parser.add_argument("--no-linear", action="store_true", help="leave out the linear layers")
    parser.add_argument("--output", type=Path, default=RESULTS / "costs.jsonl")
    return parser.parse_args()


if __name__ == "__main__":
    guarded(main)
