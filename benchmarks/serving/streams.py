"""Our server beside llama.cpp's: throughput and time to first token at 1 to 32 streams.

    python -m benchmarks.serving --name smollm2-135m --model smollm2-135m --planes 8 \\
        --llama-server PEERS/bin/llama-server --gguf PEERS/models/smollm2-135m.Q8_0.gguf

Every round starts every server once, alone on the pinned CPUs, and puts every number of streams
through it. A stream is a client that sends its next prompt when the last answer is complete. All
get the same prompts and exactly as many tokens; the client is one thread of raw sockets, so that it
takes as little of the machine as it can, and the same from both.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure.arguments import add_model, names, positive
from benchmarks.measure.machine import pinned_cpus
from benchmarks.measure.occasion import Occasion
from benchmarks.measure.rows import RESULTS, Row, keep
from benchmarks.serving.load import Answer, Load, run_load
from benchmarks.serving.servers import HalfbyteServer, LlamaServer, Server, running, subject_of
from halfbyte.evaluate.prompts import PROMPTS

STREAMS = "1,2,4,8,16,32"
SERVER_VARIABLE = "HALFBYTE_LLAMA_SERVER"


@dataclass(frozen=True, slots=True)
class Reading:
    """One server at one number of streams in one round."""

    tokens_per_second: float
    first_token: float  # seconds, median over requests
    between_tokens: float  # seconds, median over requests


def main() -> None:
    arguments = _parse()
    cpus = pinned_cpus(arguments.threads)
    os.sched_setaffinity(0, cpus)  # the client shares the servers' CPUs, as it would in a box
    most = max(arguments.streams)
    servers = _servers(arguments, most)
    occasion = Occasion.begin(arguments.name, arguments.threads)
    readings: dict[tuple[int, int], list[Reading]] = {}
    for turn in range(arguments.rounds):
        for i, server in enumerate(servers):
            with running(server, cpus) as up:
                _warm_up(up.port, server)
                for streams in arguments.streams:
                    load = _load(server, streams, arguments, turn)
                    reading = _read(asyncio.run(run_load(up.port, load)), load)
                    readings.setdefault((i, streams), []).append(reading)
                    _tell(turn, server, streams, reading)
    rows: list[Row] = []
    for (i, streams), values in readings.items():
        rows += _rows(servers[i], streams, values, arguments, occasion)
    keep(arguments.output, rows)


def _servers(arguments: argparse.Namespace, most: int) -> list[Server]:
    context = arguments.prompt_tokens + arguments.tokens + 64
    found: list[Server] = [
        HalfbyteServer(arguments.model, cascade, arguments.threads, most, context, arguments.planes)
        for cascade in arguments.cascades
    ]
    if arguments.llama_server:
        for gguf in arguments.gguf:
            found.append(
                LlamaServer(arguments.llama_server, gguf, arguments.threads, most, context)
            )
    return found


def prompt_text(number: int, length: int) -> str:
    """About `length` tokens that no other request begins with, so that no cache helps."""
    text = PROMPTS[number % len(PROMPTS)].text
    repeated = (text + " ") * (1 + 5 * length // len(text))
    return f"Case {number * 7919 % 100_003}. {repeated}"[: 4 * length]


def _load(server: Server, streams: int, arguments: argparse.Namespace, turn: int) -> Load:
    requests = max(arguments.requests, 2 * streams)
    first = (turn * 64 + streams) * 1000  # numbers that no other load of the run has
    prompts = [prompt_text(first + k, arguments.prompt_tokens) for k in range(requests)]
    return Load(streams, prompts, arguments.tokens, server.extra)


def _warm_up(port: int, server: Server) -> None:
    asyncio.run(run_load(port, Load(1, [prompt_text(0, 32)], 16, server.extra)))


def _read(answers: Sequence[Answer], load: Load) -> Reading:
    begin = min(answer.sent for answer in answers)
    end = max(answer.ended for answer in answers)
    gaps = [(a.ended - a.first) / (a.tokens - 1) for a in answers if a.tokens > 1]
    return Reading(
        tokens_per_second=sum(answer.tokens for answer in answers) / (end - begin),
        first_token=statistics.median(answer.first - answer.sent for answer in answers),
        between_tokens=statistics.median(gaps) if gaps else 0.0,
    )


def _rows(
    server: Server,
    streams: int,
    values: Sequence[Reading],
    arguments: argparse.Namespace,
    occasion: Occasion,
) -> list[Row]:
    details = {"prompt_tokens": arguments.prompt_tokens, "tokens": arguments.tokens}
    metrics = (
        ("serve streams", "tok/s", [v.tokens_per_second for v in values]),
        ("serve first token", "s", [v.first_token for v in values]),
        ("serve between tokens", "s", [v.between_tokens for v in values]),
    )
    subject = subject_of(server)
    return [
        occasion.row(subject, f"{metric} {streams}", unit, seen, details=details)
        for metric, unit, seen in metrics
    ]


def _tell(turn: int, server: Server, streams: int, reading: Reading) -> None:
    print(
        f"{turn + 1}  {server.engine:12} {server.cascade or server.format:16} {streams:3} streams "
        f"{reading.tokens_per_second:8.1f} tok/s  first token {reading.first_token * 1e3:8.1f} ms",
        file=sys.stderr,
        flush=True,
    )


def _counts(text: str) -> list[int]:
    return [positive(part) for part in names(text)]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    add_model(parser)
    parser.add_argument("--cascades", type=names, default="w8a8,w4a8 > w8a8")
    parser.add_argument("--streams", type=_counts, default=STREAMS)
    parser.add_argument("--prompt-tokens", type=positive, default=128, help="about")
    parser.add_argument("--tokens", type=positive, default=128, help="of every answer")
    parser.add_argument("--requests", type=positive, default=8, help="at least, a load")
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument(
        "--llama-server",
        type=Path,
        default=os.environ.get(SERVER_VARIABLE),
        help=f"the peer's program; {SERVER_VARIABLE} names one too",
    )
    parser.add_argument("--gguf", type=Path, action="append", default=[], help="the peer's model")
    parser.add_argument("--output", type=Path, default=RESULTS / "serving.jsonl")
    return parser.parse_args()
