"""Halfbyte's side of a comparison: one process, one measurement, one JSON object on stdout.

python -m benchmarks.decoding.worker decode CKPT --level w8a16 --depth 16 --tokens 128
python -m benchmarks.decoding.worker prefill CKPT --level w4a8 --tokens 512
python -m benchmarks.decoding.worker cost CKPT --levels w4a8,w8a16 --depth 128
python -m benchmarks.decoding.worker linear --levels w4a8,w8a8
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.decoding.session import Session
from benchmarks.decoding.synthetic import wide_layers
from benchmarks.measure.arguments import names, positive
from benchmarks.measure.process import guarded
from halfbyte import LLM, SamplingParams
from halfbyte._native import read_bandwidth
from halfbyte.config import Level
from halfbyte.formats.weights import Weights
from halfbyte.importers.resolve import open_weights
from halfbyte.runtime.native import NativeRuntime

COST_ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 16)
COST_TRIALS = 60
LINEAR_TRIALS = 12
COST_SECONDS = 20.0  # most time one level's curve may take: a large model gets fewer trials


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("decode", "prefill", "cost", "memory"):
        sub = verbs.add_parser(verb)
        sub.add_argument("model")
        sub.add_argument("--planes", type=int, choices=(4, 8))
        if verb == "memory":
            sub.add_argument("--cascade", required=True)
            continue
        sub.add_argument("--depth", type=int, default=0, help="tokens before what is timed")
        if verb == "cost":
            sub.add_argument("--levels", type=names, required=True)
        else:
            sub.add_argument("--level", required=True)
            sub.add_argument("--tokens", type=positive, required=True)
        sub.add_argument("--repeats", type=positive, default=3)
    linear = verbs.add_parser("linear")
    linear.add_argument("--levels", type=names, required=True)
    for sub in verbs.choices.values():
        sub.add_argument("--threads", type=positive, default=2)
    arguments = parser.parse_args()
    measure = {
        "decode": decode,
        "prefill": prefill,
        "cost": cost,
        "linear": linear_share,
        "memory": memory,
    }
    print(json.dumps(measure[arguments.verb](arguments)))


def decode(arguments: argparse.Namespace) -> dict[str, Any]:
    """Tokens per second of plain decoding after `depth` tokens; sampling and Python included."""
    level, count, depth = Level.parse(arguments.level), arguments.tokens, arguments.depth
    runtime = _open(arguments, depth + count + 1)
    session = Session(runtime)
    if depth:
        session.prefill(session.tokens(depth), level)
    session.decode(level, 1, depth, min(count, 8))
    values = [count / session.decode(level, 1, depth, count) for _ in range(arguments.repeats)]
    return _report(runtime, level, statistics.median(values))


def prefill(arguments: argparse.Namespace) -> dict[str, Any]:
    """Prompt tokens per second at positions from `depth`."""
    level, count, depth = Level.parse(arguments.level), arguments.tokens, arguments.depth
    runtime = _open(arguments, depth + count)
    session = Session(runtime)
    prompt = session.tokens(count)
    session.prefill(session.tokens(depth + count), level)
    values = [count / session.prefill(prompt, level, depth) for _ in range(arguments.repeats)]
    return _report(runtime, level, statistics.median(values))


def cost(arguments: argparse.Namespace) -> dict[str, Any]:
    """T(level, M) in milliseconds at one context: every row's logits, every row sampled."""
    levels, depth = [Level.parse(name) for name in arguments.levels], arguments.depth
    runtime = _open(arguments, depth + max(COST_ROWS))
    session = Session(runtime)
    if depth:
        session.prefill(session.tokens(depth), levels[0])
    curves = {}
    for level in levels:
        rows = {count: session.tokens(count) for count in COST_ROWS}
        trial = sum(session.verify(level, tokens, depth) for tokens in rows.values())
        trials = max(5, min(COST_TRIALS, int(COST_SECONDS / trial)))
        # Row counts take turns, so that a slow moment does not fall on one of them.
        times: dict[int, list[float]] = {count: [] for count in COST_ROWS}
        for _ in range(trials):
            for count, tokens in rows.items():
                times[count].append(session.verify(level, tokens, depth))
        drafted = [session.draft(level, 1, depth, 8) / 8 for _ in range(max(3, trials // 4))]
        curve = {str(count): statistics.median(t) * 1e3 for count, t in times.items()}
        curves[str(level)] = curve | {"draft": statistics.median(drafted) * 1e3}
    sizes = {str(level): runtime.weight_bytes(level) for level in levels}
    return {"milliseconds": curves, "bytes": sizes, **_about(runtime)}


def linear_share(arguments: argparse.Namespace) -> dict[str, Any]:
    """GB/s one-row linear layers read from matrices no cache holds, and GB/s of plain reading."""
    levels = [Level.parse(name) for name in arguments.levels]
    weights = wide_layers(_largest_cache())
    runtime = NativeRuntime(weights, threads=arguments.threads, num_tokens=64, max_rows=8)
    session = Session(runtime)
    token, result = session.tokens(1), {}
    for level in levels:
        num_bytes = runtime.weight_bytes(level)
        session.verify(level, token, 0)
        times = [session.verify(level, token, 0) for _ in range(LINEAR_TRIALS)]
        # Beside every level, so that both saw the same machine.
        bandwidth = read_bandwidth(arguments.threads, num_bytes)
        read = num_bytes / statistics.median(times) / 1e9
        result[str(level)] = {
            "gbs": read,
            "bandwidth_gbs": bandwidth,
            "share": read / bandwidth,
            "bytes": num_bytes,
        }
    return {"linear": result, **_about(runtime)}


def memory(arguments: argparse.Namespace) -> dict[str, Any]:
    """Resident bytes after a short answer under a cascade, as a user would load it."""
    llm = LLM(arguments.model, arguments.cascade, arguments.threads, planes=arguments.planes)
    llm.generate("Once upon a time", SamplingParams(temperature=0.0, max_tokens=32))
    return {"memory": _memory()}


def _open(arguments: argparse.Namespace, num_tokens: int) -> NativeRuntime:
    weights: Weights = open_weights(arguments.model, planes=arguments.planes)
    return NativeRuntime(
        weights, threads=arguments.threads, num_tokens=num_tokens + 64, page_size=64
    )


def _report(runtime: NativeRuntime, level: Level, value: float) -> dict[str, Any]:
    return {
        "value": value,
        "bytes": runtime.weight_bytes(level),
        "memory": _memory(),
        **_about(runtime),
    }


def _about(runtime: NativeRuntime) -> dict[str, Any]:
    return {
        "tier": runtime.tier,
        "threads": runtime.threads,
        "weights_bytes": runtime.memory_bytes(),
    }


def _memory() -> dict[str, int]:
    """Resident bytes of this process: its own (anonymous) and mapped files' pages."""
    found = dict(_status_lines())
    return {"anonymous": found["RssAnon"], "files": found["RssFile"], "peak": found["VmHWM"]}


def _status_lines() -> Iterator[tuple[str, int]]:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        name, _, rest = line.partition(":")
        if rest.strip().endswith("kB"):
            yield name, int(rest.split()[0]) * 1024


def _largest_cache() -> int:
    """Bytes of the largest cache the system reports."""
    sizes = [
        int(path.read_text().strip().removesuffix("K")) << 10
        for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    ]
    return max(sizes, default=64 << 20)


if __name__ == "__main__":
    guarded(main)
