"""What every handler works with: the engine, the model's text side, the options."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse

from halfbyte.api.async_engine import AsyncEngine
from halfbyte.api.loading import LoadedModel
from halfbyte.api.request import too_long
from halfbyte.errors import HalfbyteError
from halfbyte.sampling.params import StructuredOutputs
from halfbyte.server.errors import ApiError, api_error, in_field
from halfbyte.server.gate import LOGGED, REQUEST_ID
from halfbyte.server.held_bytes import HeldBytes
from halfbyte.server.options import ServeOptions
from halfbyte.server.sse import wait_for_disconnect
from halfbyte.server.watchdog import Watchdog

T = TypeVar("T")
# Longer text is tokenized in a thread, one at a time: a megabyte takes seconds of a core.
_INLINE_CHARS = 2048  # or tokens
# A longer text than this many characters per token of the context is counted in windows first, and
# refused as soon as they have twice the tokens: where windows meet a few tokens are counted twice.
_USUAL_CHARS = 4
_WINDOW_CHARS = 1 << 15


@dataclass(frozen=True, slots=True)
class Service:
    """One served model."""

    engine: AsyncEngine
    options: ServeOptions
    created: int  # when it was started, seconds since 1970
    bodies: HeldBytes
    watchdog: Watchdog
    # One at a time, so that no kind of work takes all threads. A lock is given on when its holder
    # ends, whatever ends it; what a cancelled holder's thread still does harms no other's.
    heavy: asyncio.Lock = field(default_factory=asyncio.Lock)
    rendering: asyncio.Lock = field(default_factory=asyncio.Lock)
    preparing: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def model(self) -> LoadedModel:
        """Weights, tokenizer, template."""
        return self.engine.llm.model

    @property
    def cascades(self) -> list[str]:
        """What a request may choose, the default first."""
        own = self.engine.llm.cascade
        return list(dict.fromkeys((str(own), str(own.plain), *self.options.cascades)))

    def check_model(self, name: str | None) -> None:
        """404 where another model is asked for."""
        if name is not None and name != self.options.model_name:
            raise ApiError(
                404,
                f"model {name[:120]!r} is not served here; this server has "
                f"'{self.options.model_name}'",
                kind="not_found_error",
                param="model",
                code="model_not_found",
            )

    async def prepare(self, constraint: StructuredOutputs | None, field: str) -> None:
        """Compile the constraint that a field of a body has, off the loop: milliseconds, and a
        second for the first ever.

        ApiError 400 for one that cannot be. The engine finds it ready.
        """
        if constraint is None:
            return
        async with self.preparing:
            try:
                await asyncio.to_thread(lambda: self.model.grammars.compile(constraint))
            except HalfbyteError as error:
                raise in_field(error, field) from error

    async def encode(
        self,
        text: str,
        *,
        as_chat: bool,
        param: str = "prompt",
        how: Callable[[], list[int]] | None = None,
    ) -> list[int]:
        """Token ids, by `how` where it is given; ApiError 400 for text that cannot be, or is far
        beyond the context."""
        try:
            return await self.aside(len(text), lambda: self._encode(text, as_chat, how))
        except HalfbyteError as error:
            raise api_error(error, param=param) from error

    def _encode(self, text: str, as_chat: bool, how: Callable[[], list[int]] | None) -> list[int]:
        codec, context = self.model.codec, self.model.context
        if len(text) > _USUAL_CHARS * context:
            count = 0
            for start in range(0, len(text), _WINDOW_CHARS):
                count += len(codec.encode(text[start : start + _WINDOW_CHARS], as_chat=True))
                if count > 2 * context:
                    raise too_long(f"over {2 * context} tokens", context)
        return codec.encode(text, as_chat=as_chat) if how is None else how()

    async def aside(self, size: int, work: Callable[[], T]) -> T:
        """The result of work over `size` tokens, done in a thread if they are many."""
        if size <= _INLINE_CHARS:
            return work()
        async with self.heavy:
            return await asyncio.to_thread(work)

    def check_length(self, ids: Sequence[int], *, param: str = "prompt") -> None:
        """ApiError 400 for a prompt that leaves no room, before anything else is done with it."""
        if len(ids) >= self.model.context:
            raise api_error(too_long(f"{len(ids)} tokens", self.model.context), param=param)


def service_of(request: Request) -> Service:
    """The service an application was built for."""
    service: Service = request.app.state.service
    return service


def request_id(request: Request) -> str:
    """The id the gate gave it."""
    return str(request.scope[REQUEST_ID])


def note(request: Request, **fields: Any) -> None:
    """Add fields to the request's log line."""
    request.scope[LOGGED].update(fields)


def now() -> int:
    """Seconds since 1970, as OpenAI's objects carry them."""
    return int(time.time())


async def answer_json(
    request: Request, work: Awaitable[dict[str, Any]], close: Callable[[], None]
) -> JSONResponse:
    """Await an answer, or `close` its generation as soon as the client goes away."""
    result = await _unless_gone(request, work, close)
    return JSONResponse(result)


async def _unless_gone(request: Request, work: Awaitable[T], close: Callable[[], None]) -> T:
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(wait_for_disconnect(request.receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ApiError(400, "the client went away", code="disconnected")
        return task.result()
    finally:
        close()
        for pending in (task, gone):
            pending.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)
