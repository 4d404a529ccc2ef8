"""What every handler works with: the engine, the model's text side, the options."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse

from halfbyte.api.async_engine import AsyncEngine
from halfbyte.api.loading import LoadedModel
from halfbyte.errors import HalfbyteError
from halfbyte.sampling.params import StructuredOutputs
from halfbyte.server.errors import ApiError, bad_request
from halfbyte.server.gate import LOGGED, REQUEST_ID
from halfbyte.server.options import ServeOptions
from halfbyte.server.sse import wait_for_disconnect

T = TypeVar("T")
# Longer text is tokenized in a thread: 64 KiB take some 10 ms, and streams are waiting.
_INLINE_CHARS = 16384


@dataclass(frozen=True, slots=True)
class Service:
    """One served model."""

    engine: AsyncEngine
    options: ServeOptions
    created: int  # when it was started, seconds since 1970
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

    async def prepare(self, constraint: StructuredOutputs | None) -> None:
        """Compile a constraint off the loop: milliseconds, and a second for the first ever.

        ApiError 400 for one that cannot be. The engine finds it ready.
        """
        if constraint is None:
            return
        async with self.preparing:
            try:
                await asyncio.to_thread(lambda: self.model.grammars.compile(constraint))
            except HalfbyteError as error:
                raise bad_request(str(error), param=error.what) from error

    async def encode(self, text: str, *, as_chat: bool) -> list[int]:
        """Token ids; ApiError 400 for text that cannot be."""
        codec = self.model.codec
        try:
            if len(text) <= _INLINE_CHARS:
                return codec.encode(text, as_chat=as_chat)
            return await asyncio.to_thread(codec.encode, text, as_chat=as_chat)
        except HalfbyteError as error:
            raise bad_request(str(error), param="prompt") from error


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
