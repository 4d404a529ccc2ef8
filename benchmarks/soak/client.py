"""One user after another for `soak`: random requests, and what became of them."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.serving.raw_http import post, status_of
from benchmarks.soak.asked import CHAT, COMPLETIONS, Asked, constrained, conversation, said_by
from halfbyte.errors import SourceError

# Kinds of requests and how many of a hundred; tools only where the model's template knows them.
KINDS = {"stream": 35, "whole": 20, "left": 20, "malformed": 10, "chat": 5, "structured": 5}
TOOLS = {"tools": 5}
# Beyond the request's own limit of the server: a stream that is silent for so long is stuck.
SILENT_SECONDS = 900.0
MALFORMED: Sequence[bytes] = (
    b"",
    b"{",
    b"[" * 100_000,
    b"\xff" * 50,
    b'{"prompt": 5}',
    b'{"prompt": []}',
    b'{"prompt": [99999999]}',
    b'{"prompt": "a", "max_tokens": -1}',
    b'{"prompt": "a", "n": 1000000}',
    b'{"prompt": "a", "cascade": "model:/etc/passwd@w4a8 > w8a16"}',
    b'{"prompt": "a", "structured_outputs": {"regex": "("}}',
    b'{"prompt": "a", "logit_bias": {"99999999": 1}}',
    b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
    b'{"messages": 1, "prompt": 1}',
    b'{"prompt": "a", "unknown": 1}',
)


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer that can be held against plain decoding of the same request alone."""

    body: dict[str, Any]
    text: str
    logprobs: list[float]
    finish_reason: str


@dataclass(slots=True)
class Tally:
    """What all clients saw."""

    ended: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    kept: list[Answered] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Client:
    """Draws its requests from one seed; `longest`: tokens of an answer; `vocab`: ids below it;
    `tools`: whether the model's template knows them."""

    port: int
    rng: random.Random
    longest: int
    vocab: int
    cascades: Sequence[str | None]
    tally: Tally
    tools: bool = False

    async def one(self, *, keep: bool) -> bool:
        """One request to its end, or to where this client goes away. False: the queue is full."""
        kinds = KINDS | (TOOLS if self.tools else {})
        kind = self.rng.choices(list(kinds), list(kinds.values()))[0]
        async with asyncio.timeout(SILENT_SECONDS):
            if kind == "malformed":
                ended = await self._malformed()
            elif kind in ("chat", "tools"):
                body = conversation(self.rng, self.longest, tools=kind == "tools")
                ended = f"{kind} {await self._asked(CHAT, body, keep=keep)}"
            elif kind == "structured":
                body = constrained(self.rng, self.longest)
                ended = f"{kind} {await self._asked(COMPLETIONS, body, keep=keep)}"
            else:
                ended = await self._completion(kind, keep=keep)
        self.tally.ended[ended] += 1
        return not ended.endswith("busy")

    async def _malformed(self) -> str:
        path = self.rng.choice((COMPLETIONS, CHAT))
        async with post(self.port, path, self.rng.choice(MALFORMED)) as reader:
            status = await status_of(reader)
            if not 400 <= status < 500:
                raise _fault(f"status {status} for a malformed body")
        return "malformed"

    async def _asked(self, path: str, body: dict[str, Any], *, keep: bool) -> str:
        body |= {"cascade": self.rng.choice(self.cascades)}
        async with post(self.port, path, body) as reader:
            status = await status_of(reader)
            if status != 200:
                return _refused(status)
            if body["stream"]:
                choices = await _events(reader, None)
            else:
                choices = json.loads(await reader.read())["choices"]
        said = said_by(choices)
        self.tally.tokens += len(said["logprobs"])
        if keep:
            self.tally.asked.append(Asked(path, body, said))
        return str(said["finish_reason"])

    async def _completion(self, kind: str, *, keep: bool) -> str:
        body = self._body() | {"stream": kind != "whole"}
        cut = self.rng.randint(0, 12) if kind == "left" else None
        async with post(self.port, COMPLETIONS, body) as reader:
            status = await status_of(reader)
            if status != 200:
                return _refused(status)
            if kind == "whole":
                choices = json.loads(await reader.read())["choices"]
            else:
                choices = await _events(reader, cut)
        if cut is not None and (not choices or choices[-1]["finish_reason"] is None):
            return "left"
        answer = _joined(body, choices)
        self.tally.tokens += len(answer.logprobs)
        if keep:
            self.tally.kept.append(answer)
        return answer.finish_reason

    def _body(self) -> dict[str, Any]:
        rng = self.rng
        shared = [(7 * i) % self.vocab for i in range(rng.choice((0, 64, 256)))]
        return {
            "prompt": shared + [rng.randrange(self.vocab) for _ in range(rng.randint(1, 40))],
            "temperature": rng.choice((0, 0.8)),
            "seed": rng.randrange(2**63),
            "max_tokens": rng.randint(1, self.longest),
            "repetition_penalty": rng.choice((1.0, 1.0, 1.1)),
            "stop": rng.choice(([], [], ["."], ["the ", "\n"])),
            "ignore_eos": rng.random() < 0.5,
            "logprobs": 0,
            "cascade": rng.choice(self.cascades),
            "priority": rng.choice((0, 0, 1)),
        }


async def _events(reader: asyncio.StreamReader, cut: int | None) -> list[dict[str, Any]]:
    """The choice of every event, or of the first `cut`."""
    choices: list[dict[str, Any]] = []
    ended = False
    while cut is None or len(choices) < cut:
        line = await reader.readline()
        if not line:
            break
        if line.startswith(b"data: {"):
            values = json.loads(line[6:])
            if "error" in values:
                raise _fault(f"an error in a stream: {values['error']}")
            choices += values["choices"]
        ended = ended or line.startswith(b"data: [DONE]")
    if cut is None and not ended:
        raise _fault("a stream without its end")
    return choices


def _joined(body: dict[str, Any], choices: Sequence[dict[str, Any]]) -> Answered:
    """One answer of its pieces; SourceError where it does not say why it ended."""
    reason = choices[-1]["finish_reason"] if choices else None
    if reason not in ("stop", "length"):
        raise _fault(f"finish_reason {reason}")
    logprobs = [x for choice in choices for x in choice["logprobs"]["token_logprobs"]]
    return Answered(body, "".join(c["text"] for c in choices), logprobs, reason)


def _refused(status: int) -> str:
    """What may come under load: the queue is full."""
    if status != 429:
        raise _fault(f"status {status}")
    return "busy"


def _fault(got: str) -> SourceError:
    return SourceError("server", got=got, expected="what its API promises", fix="see its log")
