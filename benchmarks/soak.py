"""Thousands of mixed requests with cancellations: pages come back, memory stays, nothing is wrong.

    python -m benchmarks.soak smollm2-135m --requests 10000

Every tenth answer that was not cut short is held against plain decoding of the same request alone.
Prints one JSON line; exit status 1 if a page is lost, a stream hangs or an answer differs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import resource
import sys
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from halfbyte import LLM, SamplingParams
from halfbyte.async_engine import AsyncEngine, AsyncOptions
from halfbyte.errors import ArgumentError, QueueFullError
from halfbyte.evaluate.exactness import identical
from halfbyte.results import Completion

STREAM_SECONDS = 120  # longer without a chunk is a stuck stream


@dataclass(slots=True)
class Tally:
    ended: Counter[str]
    refused: int = 0
    malformed: int = 0
    tokens: int = 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--cascade", default="w4a8 > w8a16")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--streams", type=int, default=24, help="at a time")
    parser.add_argument("--tokens", type=int, default=48, help="most of an answer")
    parser.add_argument("--num-tokens", type=int, default=2048, help="of the KV pool: short")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _params(rng: random.Random, longest: int) -> SamplingParams:
    return SamplingParams(
        temperature=rng.choice([0.0, 0.8]),
        seed=rng.randrange(2**64),
        max_tokens=rng.randint(1, longest),
        repetition_penalty=rng.choice([1.0, 1.0, 1.1]),
        stop=rng.choice([(), (), (".",), ("the ", "\n")]),
        logprobs=rng.choice([None, None, 3]),
        ignore_eos=rng.random() < 0.5,
    )


async def _client(
    engine: AsyncEngine,
    rng: random.Random,
    budget: list[int],
    arguments: argparse.Namespace,
    tally: Tally,
    kept: list[tuple[list[int], SamplingParams, Completion]],
) -> None:
    """One user after another until the budget of requests is spent."""
    vocab = engine.llm.model.runtime.config.vocab_size
    plain = str(engine.llm.cascade.plain)
    while budget[0] > 0:
        budget[0] -= 1
        number = budget[0]
        if rng.random() < 0.02:
            try:
                engine.submit([vocab + 5] if rng.random() < 0.5 else [], SamplingParams())
            except ArgumentError:
                tally.malformed += 1
            continue
        begin = [(7 * i) % vocab for i in range(rng.choice([0, 64, 256]))]
        prompt = begin + [rng.randrange(vocab) for _ in range(rng.randint(1, 60))]
        params = _params(rng, arguments.tokens)
        try:
            stream = engine.submit(
                prompt,
                params,
                cascade=rng.choice([None, None, plain, f"ngram > {plain}"]),
                priority=rng.choice([0, 0, 1]),
                deadline=time.monotonic() + (0.05 if rng.random() < 0.03 else 600),
            )
        except QueueFullError:
            tally.refused += 1
            budget[0] += 1
            await asyncio.sleep(0.05)
            continue
        cut = rng.randint(1, 12) if rng.random() < 0.2 else None
        completion, chunks = None, 0
        while completion is None:
            chunk = await asyncio.wait_for(anext(stream), STREAM_SECONDS)
            chunks += 1
            completion = chunk.completion
            if chunks == cut:
                stream.cancel()
        tally.ended[completion.finish_reason] += 1
        tally.tokens += len(completion.token_ids)
        if number % 10 == 0 and completion.finish_reason in ("stop", "length"):
            kept.append((prompt, params, completion))


def _resident_mib() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


async def _soak(llm: LLM, arguments: argparse.Namespace) -> dict[str, Any]:
    tally, budget = Tally(Counter()), [arguments.requests]
    kept: list[tuple[list[int], SamplingParams, Completion]] = []
    early = 0.0
    started = time.monotonic()
    async with AsyncEngine(llm, AsyncOptions(max_waiting=arguments.streams // 2)) as engine:
        clients = [
            asyncio.create_task(
                _client(engine, random.Random(arguments.seed + i), budget, arguments, tally, kept)
            )
            for i in range(arguments.streams)
        ]
        while not all(client.done() for client in clients):
            await asyncio.wait(clients, timeout=1.0)
            if early == 0.0 and budget[0] < arguments.requests * 3 // 4:
                early = _resident_mib()  # buffers and pages have been touched by now
        for client in clients:
            client.result()
        seen = engine.snapshot()
    late = _resident_mib()
    wrong = 0
    plain = llm.with_cascade(llm.cascade.plain, prefix_cache=False)
    for prompt, params, completion in kept:
        wrong += not identical([completion], plain.generate([prompt], params))
    return {
        "requests": arguments.requests,
        "seconds": time.monotonic() - started,
        "finished": dict(tally.ended),
        "refused": tally.refused,
        "malformed": tally.malformed,
        "tokens": tally.tokens,
        "preemptions": seen.preemptions,
        "cached_tokens": seen.cached_tokens,
        "lost_pages": llm.model.pool.num_pages - llm.model.pool.num_free,
        "resident_mib_early": early,
        "resident_mib_late": late,
        "compared": len(kept),
        "wrong": wrong,
    }


def main() -> None:
    arguments = _parse()
    llm = LLM(
        arguments.model, arguments.cascade, arguments.threads, num_tokens=arguments.num_tokens
    )
    result = asyncio.run(_soak(llm, arguments))
    print(json.dumps(result))
    sys.exit(1 if result["lost_pages"] or result["wrong"] else 0)


if __name__ == "__main__":
    main()
