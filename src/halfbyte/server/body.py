"""Reads and checks the body of a request: size, time, type, JSON, fields."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from halfbyte.server.errors import ApiError, from_validation
from halfbyte.server.options import ServeOptions

B = TypeVar("B", bound=BaseModel)


async def read_body(request: Request, model: type[B], options: ServeOptions) -> B:
    """A checked body; ApiError 400, 408, 413 or 415."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # Also a guard: a form on a foreign web page cannot send this type without asking first.
        raise ApiError(
            415,
            f"content-type: got {kind[:80]!r}, expected 'application/json'",
            code="unsupported_media_type",
        )
    try:
        async with asyncio.timeout(options.body_timeout):
            raw = await _read(request, options.max_body_bytes)
    except TimeoutError as error:
        raise ApiError(408, "the body did not arrive in time", code="body_timeout") from error
    except ClientDisconnect as error:
        raise ApiError(400, "the client went away", code="disconnected") from error
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        raise from_validation(error, model) from error


async def _read(request: Request, limit: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if (declared.isdigit() and len(declared) > 15) or (
        declared.isdigit() and int(declared) > limit
    ):
        raise _too_large(limit)
    raw = bytearray()
    async for piece in request.stream():
        raw += piece
        if len(raw) > limit:
            raise _too_large(limit)
    return bytes(raw)


def _too_large(limit: int) -> ApiError:
    return ApiError(
        413,
        f"the body is larger than the {limit} bytes this server takes; send less",
        code="body_too_large",
    )
