"""A load: streams that ask for completions one after the other, and when tokens arrived."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from benchmarks.serving.raw_http import post
from halfbyte.errors import SourceError

TIMEOUT_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Load:
    """`prompts` shared out over `streams` clients, each answer of exactly `tokens` tokens."""

    streams: int
    prompts: Sequence[str]
    tokens: int
    extra: Mapping[str, Any]  # fields that only this server knows


@dataclass(frozen=True, slots=True)
class Answer:
    """Seconds of one clock, and how many tokens the server says it sent."""

    sent: float
    first: float
    ended: float
    tokens: int


async def run_load(port: int, load: Load) -> list[Answer]:
    """Every prompt answered; SourceError where one is not, or not in full."""
    waiting = list(reversed(load.prompts))
    answers: list[Answer] = []

    async def stream() -> None:
        while waiting:
            answers.append(await _ask(port, waiting.pop(), load))

    async with asyncio.timeout(TIMEOUT_SECONDS):
        await asyncio.gather(*(stream() for _ in range(load.streams)))
    return answers


async def _ask(port: int, prompt: str, load: Load) -> Answer:
    body = {
        "prompt": prompt,
        "max_tokens": load.tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        **load.extra,
    }
    sent = perf_counter()
    async with post(port, "/v1/completions", body) as reader:
        return await _read(reader, sent, load.tokens)


async def _read(reader: asyncio.StreamReader, sent: float, wanted: int) -> Answer:
    """Events of one stream; only the last with a usage is decoded."""
    status = await reader.readline()
    if b" 200 " not in status:
        rest = await reader.read(4096)
        raise _fault(f"{status.decode(errors='replace').strip()} {rest[-300:]!r}")
    first = ended = 0.0
    usage: dict[str, Any] = {}
    while line := await reader.readline():
        if not line.startswith(b"data: {"):
            continue
        ended = perf_counter()
        if not first and b'"text":""' not in line:
            first = ended
        if b'"usage"' in line:
            usage = json.loads(line[6:]).get("usage") or usage
    tokens = int(usage.get("completion_tokens", 0))
    if tokens != wanted:
        raise _fault(f"{tokens} tokens of {wanted}")
    return Answer(sent, first or ended, ended, tokens)


def _fault(got: str) -> SourceError:
    return SourceError(
        "server", got=got, expected="a whole stream", fix="ask it by hand; see its own log"
    )
