"""What a client is told when it cannot be served: OpenAI's error object, never a traceback."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from halfbyte.errors import (
    ArgumentError,
    ContextError,
    HalfbyteError,
    MachineError,
    QueueFullError,
    StoppedError,
)

MAX_MESSAGE_CHARS = 600
RETRY_AFTER_SECONDS = 1


class ApiError(Exception):
    """An answer other than 200. `kind` and `code` are what OpenAI's clients look at."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        # One line: it may quote what was sent.
        self.message = " ".join(message[: 2 * MAX_MESSAGE_CHARS].splitlines())[:MAX_MESSAGE_CHARS]
        self.kind = kind
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The JSON object."""
        return {
            "error": {
                "message": self.message,
                "type": self.kind,
                "param": self.param,
                "code": self.code,
            }
        }


def bad_request(message: str, *, param: str | None = None, code: str | None = None) -> ApiError:
    """400: the request is wrong and will stay wrong."""
    return ApiError(400, message, param=param, code=code)


def api_error(error: HalfbyteError, param: str | None = None) -> ApiError:
    """How an error of a lower layer is told to a client; `param`: the field that caused it."""
    if isinstance(error, QueueFullError):
        return ApiError(
            429,
            str(error),
            kind="rate_limit_error",
            code="queue_full",
            headers={"retry-after": str(RETRY_AFTER_SECONDS)},
        )
    if isinstance(error, StoppedError):
        return ApiError(
            503,
            "the server is shutting down or has failed",
            kind="server_error",
            code="stopped",
            headers={"retry-after": str(RETRY_AFTER_SECONDS)},
        )
    if isinstance(error, MachineError):
        return ApiError(
            503,
            str(error),
            kind="server_error",
            code="no_resources",
            headers={"retry-after": str(RETRY_AFTER_SECONDS)},
        )
    code = "context_length_exceeded" if isinstance(error, ContextError) else None
    return bad_request(str(error), param=param or error.what, code=code)


def in_field(error: HalfbyteError, field: str) -> ApiError:
    """`api_error` of what was made from a field of the client's, which is what its text names."""
    if not isinstance(error, ArgumentError) or error.what.split(".")[0] == field:
        return api_error(error, param=field if isinstance(error, ArgumentError) else None)
    told = ArgumentError(field, got=error.got, expected=error.expected, fix=error.fix)
    return api_error(told, param=field)


def from_validation(error: ValidationError) -> ApiError:
    """The first fault of a body as one line."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    message = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "unknown_field":
        name = message.partition("'")[2].partition("'")[0]
        where = ".".join(part for part in (where, name) if part)
        return bad_request(message, param=where[:120], code="unknown_field")
    if first["type"] == "json_invalid":
        return bad_request(f"the body is not valid JSON: {first['msg']}", code="invalid_json")
    return bad_request(
        f"'{where[:120]}': {message}" if where else message, param=where[:120] or None
    )
