"""Reads and checks the body of a request: size, time, type, JSON, fields."""

from __future__ import annotations

import asyncio
import gc
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from halfbyte.server.errors import ApiError, from_validation
from halfbyte.server.service import Service

B = TypeVar("B", bound=BaseModel)
# Longer bodies are parsed in a thread, one at a time: megabytes take a tenth of a second and, while
# they become objects, tens of times their size.
INLINE_BYTES = 1 << 14
BODY_BYTES = "halfbyte.body_bytes"  # in the ASGI scope


async def read_body(request: Request, model: type[B], service: Service) -> B:
    """A checked body; ApiError 400, 408, 413, 415 or 429."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # Also a guard: a form on a foreign web page cannot send this type without asking first.
        raise ApiError(
            415,
            f"content-type: got {kind[:80]!r}, expected 'application/json'",
            code="unsupported_media_type",
        )
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise ApiError(
            415,
            f"content-encoding: got {coding[:40]!r}, expected a body that is not compressed",
            code="unsupported_media_type",
        )
    with service.bodies.body() as raw:
        try:
            async with asyncio.timeout(service.options.body_timeout):
                await _read(request, raw, service)
        except TimeoutError as error:
            raise ApiError(408, "the body did not arrive in time", code="body_timeout") from error
        except ClientDisconnect as error:
            raise ApiError(400, "the client went away", code="disconnected") from error
        if len(raw) <= INLINE_BYTES:
            return _checked(model, raw)
        request.scope[BODY_BYTES] = len(raw)
        async with service.heavy:
            return await asyncio.to_thread(_checked_aside, model, raw)


def body_bytes(request: Request) -> int:
    """Bytes of the body that was read: a measure of how large an answer may be; 0: none was."""
    return int(request.scope.get(BODY_BYTES, 0))


def _checked_aside(model: type[B], raw: bytearray) -> B:
    collects = gc.isenabled()
    gc.disable()  # it would look at everything again for every few thousand objects
    try:
        return _checked(model, raw)
    finally:
        if collects:
            gc.enable()


def _checked(model: type[B], raw: bytearray) -> B:
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        raise from_validation(error) from error


async def _read(request: Request, raw: bytearray, service: Service) -> None:
    limit = service.options.max_body_bytes
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and (len(declared) > 15 or int(declared) > limit):
        raise _too_large(limit)
    async for piece in request.stream():
        if len(raw) + len(piece) > limit:
            raise _too_large(limit)
        service.bodies.add(raw, piece)


def _too_large(limit: int) -> ApiError:
    return ApiError(
        413,
        f"the body is larger than the {limit} bytes this server takes; send less",
        code="body_too_large",
    )
