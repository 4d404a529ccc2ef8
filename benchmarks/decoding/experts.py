"""How fast experts are read: one row against the memory's speed, several rows against one.

    python -m benchmarks.decoding.experts --shape qwen3-30b-a3b --layers 4

Layers of a known model's shape with random weights. Tokens are random, so that rows share experts
by chance only: M rows choose E (1 - (1 - k/E)^M) distinct ones on average, which bounds from below
what a forward of M rows costs where experts are all there is. The share is of the reading speed
that as many threads reach beside it.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from benchmarks.decoding.session import Session
from benchmarks.decoding.synthetic import EXPERT_SHAPES, RandomLayers
from benchmarks.measure.arguments import names, positive
from benchmarks.measure.occasion import Occasion, Subject
from benchmarks.measure.process import guarded
from benchmarks.measure.rows import RESULTS, keep
from halfbyte._native import read_bandwidth
from halfbyte.config import Experts, Level
from halfbyte.runtime.native import NativeRuntime

ROWS = (1, 2, 4, 8)
TRIALS = 24


def main() -> None:
    arguments = _parse()
    shape = EXPERT_SHAPES[arguments.shape]
    occasion = Occasion.begin(f"{arguments.shape} layers", arguments.threads)
    weights = RandomLayers(shape(arguments.layers))
    runtime = NativeRuntime(weights, threads=arguments.threads, num_tokens=64, max_rows=8)
    rows = []
    for level in map(Level.parse, arguments.levels):
        num_bytes = runtime.weight_bytes(level)
        milliseconds = _forwards(Session(runtime), level)
        bandwidth = read_bandwidth(arguments.threads, num_bytes)
        alone = statistics.median(milliseconds[1])
        read = num_bytes / alone / 1e6
        subject = Subject.ours("synthetic", num_bytes, str(level))
        details = {"distinct experts": _distinct(weights, 1), "bandwidth_gbs": bandwidth}
        for metric, unit, value in (
            ("experts gbs", "GB/s", read),
            ("experts share", "of reading", read / bandwidth),
        ):
            rows.append(occasion.row(subject, metric, unit, [value], details=details))
        for count, found in milliseconds.items():
            details = {"distinct experts": _distinct(weights, count), "T/T(1)": 1.0}
            details["T/T(1)"] = statistics.median(found) / alone
            metric = f"experts forward {count}"
            rows.append(occasion.row(subject, metric, "ms", found, details=details))
    keep(arguments.output, rows)
    for row in rows:
        extra = " ".join(f"{name} {value:.2f}" for name, value in (row.details or {}).items())
        print(f"{row.cascade:6} {row.metric:18} {row.spread.median:9.3f} {row.unit:10} {extra}")


def _forwards(session: Session, level: Level) -> dict[int, list[float]]:
    """Milliseconds of forwards of M rows with tokens of their own; row counts take turns."""
    times: dict[int, list[float]] = {count: [] for count in ROWS}
    for trial in range(TRIALS + 1):
        for count in ROWS:
            seconds = session.verify(level, session.tokens(count), 0)
            if trial:
                times[count].append(seconds * 1e3)
    return times


def _distinct(weights: RandomLayers, count: int) -> float:
    """The experts that `count` rows choose on average, where each chooses at random."""
    experts = weights.config.layer(0).feed_forward
    assert isinstance(experts, Experts)
    return experts.count * (1 - (1 - experts.top_k / experts.count) ** count)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--shape", choices=sorted(EXPERT_SHAPES), required=True)
    parser.add_argument("--layers", type=positive, default=4, help="as many as memory holds")
    parser.add_argument("--levels", type=names, default=["w4a8", "w4a16", "w8a8", "w8a16"])
    parser.add_argument("--threads", type=positive, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS / "experts.jsonl")
    return parser.parse_args()


if __name__ == "__main__":
    guarded(main)
