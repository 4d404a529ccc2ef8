"""What a client is told when it cannot be served: OpenAI's error object, never a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

MAX_MESSAGE_CHARS = 600


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
        self.message = message[:MAX_MESSAGE_CHARS]
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


def from_validation(error: ValidationError, model: type[BaseModel]) -> ApiError:
    """The first fault of a body as one line; an unknown field names the nearest known one."""
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
        known = [*model.model_fields]
        near = difflib.get_close_matches(where, known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else "leave it out"
        return bad_request(
            f"unknown field '{where[:80]}': this server does not offer it; {hint}",
            param=where[:80],
            code="unknown_field",
        )
    if first["type"] == "json_invalid":
        return bad_request(f"the body is not valid JSON: {first['msg']}", code="invalid_json")
    message = str(first["msg"]).removeprefix("Value error, ")
    return bad_request(
        f"'{where[:120]}': {message}" if where else message, param=where[:120] or None
    )
