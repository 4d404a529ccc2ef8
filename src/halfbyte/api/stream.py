"""What a caller of `AsyncEngine.submit` holds: an asynchronous iterator of chunks."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from halfbyte.api.results import Chunk, Completion


class RequestStream:
    """Chunks of one request as they come. Used on the event loop it was made on.

    Leaving the loop early does not end the request: call `cancel`, or use `async with`.
    """

    def __init__(self, request_id: str, cancel: Callable[[], None]) -> None:
        self.request_id = request_id
        self._cancel = cancel
        self._chunks: deque[Chunk] = deque()
        self._changed = asyncio.Event()
        self._ended = False
        self._error: BaseException | None = None

    def cancel(self) -> None:
        """End the request within a step; the last chunk then says `cancelled`. Idempotent."""
        if not self._ended:
            self._cancel()

    async def completion(self) -> Completion:
        """Read to the end and return the whole answer (the first choice of several)."""
        last: Completion | None = None
        async for chunk in self:
            last = chunk.completion or last
        assert last is not None, "a stream ends with a completion or an error"
        return last

    def __aiter__(self) -> RequestStream:
        return self

    async def __anext__(self) -> Chunk:
        while not self._chunks:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        return self._chunks.popleft()

    async def __aenter__(self) -> RequestStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancel()

    def deliver(self, chunk: Chunk, *, last: bool) -> None:
        """Hand a chunk to the reader; on the event loop only."""
        self._chunks.append(chunk)
        self._ended = self._ended or last
        self._changed.set()

    def fail(self, error: BaseException) -> None:
        """End with an error, after the chunks that came before it; on the event loop only."""
        self._error, self._ended = error, True
        self._changed.set()
