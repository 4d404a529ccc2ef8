"""Thousands of mixed requests to a real server: pages come back, memory stays, nothing is wrong.

    python -m benchmarks.soak --name smollm2-135m --model smollm2-135m --requests 10000

Streams, whole answers, conversations, grammars and (`--tools`) calls of many lengths, clients that
go away, malformed bodies, on a KV pool so short that requests wait and are preempted all the time;
with `--load N` beside N processes that are always ready to run. Equally many of each kind; one that
finds the queue full is sent again as it was. Every finished answer (one of N with `--compare N`) is
held against plain decoding of the same request alone, bit for bit. One row, of requests per
second; its details have the counts. Exit status 1 if a page is lost, memory grows or an answer
differs. A stream that hangs or an answer that breaks the API ends the run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.measure.arguments import add_model, names, positive
from benchmarks.measure.machine import pinned_cpus
from benchmarks.measure.occasion import Occasion
from benchmarks.measure.process import resident_mib
from benchmarks.measure.rows import RESULTS, keep
from benchmarks.serving.raw_http import get, post, status_of
from benchmarks.serving.servers import HalfbyteServer, Running, running, subject_of
from benchmarks.soak.asked import Asked, said_by
from benchmarks.soak.client import Answered, Client, Tally
from benchmarks.soak.orders import Orders
from halfbyte import LLM, SamplingParams

CONTEXT = 128  # tokens of the KV pool per stream; the longest request has 344
MAX_GROWTH_MIB = 32.0  # after the first quarter: the allocator's noise, over thousands of requests
GAUGES = ("num_pages", "free_pages", "running", "waiting")
TOTALS = ("preemptions_total", "cached_tokens_total")


def main() -> None:
    arguments = _parse()
    server = HalfbyteServer(
        arguments.model,
        arguments.cascade,
        arguments.threads,
        arguments.streams,
        CONTEXT,
        arguments.planes,
        ("--max-waiting", str(arguments.streams // 4), "--request-timeout", "3600"),
    )
    cpus = pinned_cpus(arguments.threads)
    occasion = Occasion.begin(arguments.name, arguments.threads)
    with running(server, cpus) as up:
        with busy(arguments.load):
            found, tally, seconds = asyncio.run(_soak(up, arguments))
        wrong = asyncio.run(count_unlike(up.port, tally.asked))
    wrong += count_wrong(_plain(arguments), tally.kept)
    ended = dict(sorted(tally.ended.items()))
    details = {"ended": ended, "busy": tally.busy, "tokens": tally.tokens, **found}
    compared = len(tally.kept) + len(tally.asked)
    details |= {"finished": tally.finished, "compared": compared, "wrong": wrong}
    details["load"] = arguments.load
    print(details)
    metric, rate = f"soak {arguments.requests}", arguments.requests / seconds
    row = occasion.row(subject_of(server), metric, "requests/s", [rate], details=details)
    keep(arguments.output, [row])
    grown = found["resident_mib_end"] - found["resident_mib_quarter"]
    lost = found["num_pages"] - found["free_pages"] + found["running"] + found["waiting"]
    sys.exit(1 if lost or wrong or grown > MAX_GROWTH_MIB else 0)


async def _soak(up: Running, arguments: argparse.Namespace) -> tuple[dict[str, Any], Tally, float]:
    """Gauges of the idle server afterwards with its memory, the tally, and seconds."""
    tally, quarter = Tally(), 0.0
    cascades = (None, *arguments.cascades)  # None: the server's own
    orders = Orders(arguments.tokens, arguments.vocab, cascades, arguments.tools)
    waiting = enumerate(orders.draw(arguments.requests, arguments.seed))

    async def user() -> None:
        nonlocal quarter
        client = Client(up.port, tally)
        for number, order in waiting:  # shared: each takes the next
            if quarter == 0.0 and number > arguments.requests // 4:
                quarter = resident_mib(up.pid)  # buffers and pages have been touched by now
            await client.fill(order, keep=number % arguments.compare == 0)
            if number % 500 == 0:
                print(f"{number}: {dict(tally.ended)}", file=sys.stderr, flush=True)

    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for _ in range(arguments.streams * 3 // 2):  # more than run and wait: some get 429
            group.create_task(user())
    seconds = time.monotonic() - began
    seen = await settled(up.port)
    found = {name.removesuffix("_total"): seen[name] for name in (*GAUGES, *TOTALS)}
    found |= {"resident_mib_quarter": quarter, "resident_mib_end": resident_mib(up.pid)}
    return found, tally, seconds


async def settled(port: int) -> dict[str, float]:
    """Metrics once those that were left have ended, or as they are a minute later."""
    for _ in range(600):
        seen = await _metrics(port)
        if not seen["running"] + seen["waiting"]:
            break
        await asyncio.sleep(0.1)
    return seen


async def _metrics(port: int) -> dict[str, float]:
    """Samples without labels of /metrics, by name."""
    status, body = await get(port, "/metrics")
    assert status == 200
    lines = [line for line in body.decode().splitlines() if not line.startswith("#")]
    samples = [line.split() for line in lines if "{" not in line]
    return {name.removeprefix("halfbyte_"): float(value) for name, value in samples}


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Processes that are always ready to run, so that threads of the server are put aside."""
    others = [multiprocessing.Process(target=_spin, daemon=True) for _ in range(count)]
    for other in others:
        other.start()
    try:
        yield
    finally:
        for other in others:
            other.kill()


def _spin() -> None:
    while True:
        sum(range(200_000))
        time.sleep(0.0005)


async def count_unlike(port: int, asked: Sequence[Asked]) -> int:
    """How many answers differ from those to the same body alone, decoded plainly."""
    wrong = 0
    for one in asked:
        async with post(port, one.path, one.alone) as reader:
            assert await status_of(reader) == 200
            choices = json.loads(await reader.read())["choices"]
        alone = said_by(choices)
        if alone != one.said:
            wrong += 1
            print(f"{one.path} {one.body}: {one.said}, alone {alone}", file=sys.stderr)
    return wrong


def count_wrong(plain: LLM, kept: Sequence[Answered]) -> int:
    """How many answers differ from those of `plain`, which gets one request at a time."""
    names = ("temperature", "seed", "max_tokens", "repetition_penalty", "stop", "ignore_eos")
    wrong = 0
    for answer in kept:
        params = SamplingParams(**{name: answer.body[name] for name in names})
        alone = plain.generate([answer.body["prompt"]], params)[0]
        same = answer.text == alone.text and answer.logprobs == alone.logprobs
        wrong += not (same and answer.finish_reason == alone.finish_reason)
    return wrong


def _plain(arguments: argparse.Namespace) -> LLM:
    planes, threads = arguments.planes, arguments.threads
    llm = LLM(arguments.model, arguments.cascade, threads, planes=planes, prefix_cache=False)
    return llm.with_cascade(llm.cascade.plain)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    add_model(parser)
    parser.add_argument("--cascade", default="auto")
    parser.add_argument(
        "--cascades", type=names, default="none,w4a8 > w8a16,ngram > w8a16", help="asked for too"
    )
    parser.add_argument("--vocab", type=positive, default=49152, help="ids of prompts are below it")
    parser.add_argument("--requests", type=positive, default=10_000)
    parser.add_argument("--streams", type=positive, default=16, help="sequences decoded together")
    parser.add_argument("--tokens", type=positive, default=48, help="most of an answer")
    parser.add_argument("--tools", action="store_true", help="the model's template knows tools")
    parser.add_argument("--load", type=int, default=0, help="processes that take its cores")
    parser.add_argument("--compare", type=positive, default=1, help="one of so many answers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS / "soak.jsonl")
    return parser.parse_args()
