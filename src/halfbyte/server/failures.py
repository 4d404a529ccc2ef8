"""Exceptions -> answers. A client sees OpenAI's error object; a traceback goes to the log only."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from halfbyte.errors import HalfbyteError
from halfbyte.server.errors import ApiError, api_error
from halfbyte.server.log import log_bug


async def on_api_error(request: Request, error: Exception) -> JSONResponse:
    """A refusal, in its own words."""
    assert isinstance(error, ApiError)
    return JSONResponse(error.body(), error.status, headers=error.headers)


async def on_halfbyte_error(request: Request, error: Exception) -> JSONResponse:
    """A mistake that a lower layer found."""
    assert isinstance(error, HalfbyteError)
    return await on_api_error(request, api_error(error))


async def on_http_error(request: Request, error: Exception) -> JSONResponse:
    """No such path, or not with this method."""
    assert isinstance(error, HTTPException)
    what = f"{request.method} {request.url.path[:120]}"
    told = ApiError(
        error.status_code,
        f"{what}: {error.detail}; /openapi.json lists what there is",
        kind="not_found_error" if error.status_code == 404 else "invalid_request_error",
        headers=dict(error.headers or {}),
    )
    return JSONResponse(told.body(), told.status, headers=told.headers)


def stream_error(error: Exception) -> ApiError:
    """What the last event of a broken stream says."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, HalfbyteError):
        return api_error(error)
    log_bug(error)
    return ApiError(500, "internal error", kind="server_error", code="internal_error")
