"""One request of a soak after another: sent until the server has room, and what became of it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.serving.raw_http import post, status_of
from benchmarks.soak.asked import Asked, said_by
from benchmarks.soak.orders import Order
from halfbyte.errors import SourceError

BUSY_SECONDS = 0.25  # before a request that got 429 is sent again
# Beyond the request's own limit of the server: a stream that is silent for so long is stuck.
SILENT_SECONDS = 900.0


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer that can be held against plain decoding of the same request alone."""

    body: dict[str, Any]
    text: str
    logprobs: list[float]
    finish_reason: str


@dataclass(slots=True)
class Tally:
    """What all clients saw. `ended`: by kind and end; `busy`: answers that the queue is full."""

    ended: Counter[str] = field(default_factory=Counter)
    busy: int = 0
    finished: int = 0
    tokens: int = 0
    kept: list[Answered] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)


class _BusyError(Exception):
    """The server has no room for the request now."""


@dataclass(frozen=True, slots=True)
class Client:
    """Sends orders to a port and adds to a tally."""

    port: int
    tally: Tally

    async def fill(self, order: Order, *, keep: bool) -> None:
        """One request to its end, or to where this client goes away; the same again while the
        queue is full. `keep`: its answer is to be compared."""
        async with asyncio.timeout(SILENT_SECONDS):
            while True:
                try:
                    ended = await self._once(order, keep=keep)
                except _BusyError:
                    self.tally.busy += 1
                    await asyncio.sleep(BUSY_SECONDS)
                else:
                    break
        self.tally.ended[f"{order.kind} {ended}"] += 1

    async def _once(self, order: Order, *, keep: bool) -> str:
        async with post(self.port, order.path, order.body) as reader:
            status = await status_of(reader)
            if status == 429:
                raise _BusyError
            if isinstance(order.body, bytes):
                if status != 400:
                    raise _fault(f"status {status} for a malformed body")
                return "refused"
            if status != 200:
                raise _fault(f"status {status}")
            if order.body["stream"]:
                choices = await _events(reader, order.cut)
            else:
                choices = json.loads(await reader.read())["choices"]
        if order.cut is not None and (not choices or choices[-1]["finish_reason"] is None):
            return "left"
        self.tally.finished += 1
        body = dict(order.body)
        if order.kind in ("chat", "tools", "structured"):
            said = said_by(choices)
            self.tally.tokens += len(said["logprobs"])
            if keep:
                self.tally.asked.append(Asked(order.path, body, said))
            return str(said["finish_reason"])
        answer = _joined(body, choices)
        self.tally.tokens += len(answer.logprobs)
        if keep:
            self.tally.kept.append(answer)
        return answer.finish_reason


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


def _fault(got: str) -> SourceError:
    return SourceError("server", got=got, expected="what its API promises", fix="see its log")
