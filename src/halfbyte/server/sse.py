"""Server-sent events: one response that ends its request when the client goes away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from time import monotonic
from typing import Any

from starlette.types import Message, Receive, Scope, Send

DONE = b"data: [DONE]\n\n"
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
# Python's `splitlines`, and what follows it, ends lines here too. JSON escapes all others itself.
_LINE_ENDS = [(c, f"\\u{ord(c):04x}") for c in "\x85\u2028\u2029"]
HEARTBEAT_SECONDS = 10.0  # a proxy or client that times out idle connections sees a comment


def event(values: Mapping[str, Any]) -> bytes:
    """One event with a JSON object, on one line for every client's notion of a line break."""
    text = _ENCODER.encode(values)
    for character, escaped in _LINE_ENDS:
        text = text.replace(character, escaped)
    return b"data: " + text.encode("utf-8", errors="replace") + b"\n\n"


async def wait_for_disconnect(receive: Receive) -> None:
    """Return when the client has gone; its body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream:
    """An ASGI response over `events`; `close` runs as soon as it ends, for whatever reason."""

    def __init__(self, events: AsyncIterator[bytes], close: Callable[[], None]) -> None:
        self._events = events
        self._close = close
        self._last_sent = monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        gone = asyncio.ensure_future(wait_for_disconnect(receive))
        sending = asyncio.ensure_future(self._send_all(send))
        beating = asyncio.ensure_future(self._beat(send))
        tasks = (gone, sending, beating)
        try:
            await asyncio.wait({gone, sending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._close()
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        if isinstance(results[1], Exception) and not isinstance(results[1], OSError):
            raise results[1]

    async def _send_all(self, send: Send) -> None:
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async for data in self._events:
            self._last_sent = monotonic()
            await send(_body(data))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _beat(self, send: Send) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS / 2)
            if monotonic() - self._last_sent >= HEARTBEAT_SECONDS:
                self._last_sent = monotonic()
                await send(_body(b": waiting\n\n"))


def _body(data: bytes) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": True}
