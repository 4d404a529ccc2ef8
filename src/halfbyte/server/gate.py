"""What every request passes: an id, the host, the key, headers of the answer, one log line."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Callable
from time import perf_counter

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from halfbyte.server.errors import ApiError, bad_request
from halfbyte.server.log import log, log_bug
from halfbyte.server.options import ServeOptions

REQUEST_ID = "halfbyte.request_id"  # in the ASGI scope
REFUSAL = "halfbyte.refusal"  # in the ASGI scope: why there is no request to look at
LOGGED = "halfbyte.logged"  # in the ASGI scope: what a handler adds to the log line
_GOOD_ID = re.compile(r"^[A-Za-z0-9._-]{1,64}$")
# Fields by which a request is judged: of two, a proxy in between may have judged the other one.
_ONCE = ("host", "authorization", "content-type", "content-length")
_OPEN_PATHS = ("/health", "/", "/favicon.ico")
Observe = Callable[[str, int, float], None]  # path, status, seconds


class Keys:
    """Accepts a bearer key in time that does not depend on which key, or how much, agrees."""

    def __init__(self, keys: frozenset[str]) -> None:
        self._digests = [hashlib.sha256(key.encode()).digest() for key in sorted(keys)]

    @property
    def required(self) -> bool:
        """Whether any key is set."""
        return bool(self._digests)

    def accepts(self, authorization: str) -> bool:
        """`authorization`: the header, "Bearer KEY"."""
        scheme, _, key = authorization.partition(" ")
        digest = hashlib.sha256(key.strip().encode("utf-8", errors="replace")).digest()
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return scheme.lower() == "bearer" and any(matches)


class Gate:
    """Pure ASGI, since it must not stand between a stream and its client."""

    def __init__(self, app: ASGIApp, options: ServeOptions, observe: Observe) -> None:
        self._app = app
        self._keys = Keys(options.api_keys)
        self._hosts = options.host_names
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = perf_counter()
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _GOOD_ID.match(given) else f"req-{secrets.token_hex(12)}"
        scope[REQUEST_ID], scope[LOGGED] = request_id, {}
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                added = MutableHeaders(scope=message)
                added["x-request-id"] = request_id
                added["x-content-type-options"] = "nosniff"
            await send(message)

        try:
            refusal = self._refusal(scope, headers)
            if refusal is not None:
                scope[LOGGED]["refused"] = refusal.code
                await send_error(refusal, answer)
            else:
                await self._app(scope, receive, answer)
        except Exception as error:  # our bug: the log has the traceback, the client the id
            log_bug(error, id=request_id)
            if status == 0:
                await send_error(_internal(request_id), answer)
        finally:
            seconds = perf_counter() - started
            self._observe(scope["path"], status, seconds)
            if scope["path"] not in ("/health", "/metrics"):
                log(
                    "request",
                    id=request_id,
                    method=scope["method"],
                    path=scope["path"][:200],
                    status=status,
                    ms=round(seconds * 1e3, 1),
                    **scope[LOGGED],
                )

    def _refusal(self, scope: Scope, headers: Headers) -> ApiError | None:
        if REFUSAL in scope:
            found: ApiError = scope[REFUSAL]
            return found
        for name in _ONCE:
            if len(headers.getlist(name)) > 1:
                told = f"malformed HTTP: {name} is given more than once"
                return bad_request(told, code="malformed_http")
        if self._hosts:
            name = _host_name(headers.get("host", ""))
            if name not in self._hosts:
                return ApiError(
                    403,
                    f"host {name[:80]!r} is not one this server answers to; "
                    "name it with --allowed-host",
                    code="host_not_allowed",
                )
        if not self._keys.required or scope["path"] in _OPEN_PATHS:
            return None
        if scope["method"] == "OPTIONS" or self._keys.accepts(headers.get("authorization", "")):
            return None
        return ApiError(
            401,
            "no valid API key: send 'Authorization: Bearer KEY'",
            kind="authentication_error",
            code="invalid_api_key",
            headers={"www-authenticate": "Bearer"},
        )


def _internal(request_id: str) -> ApiError:
    return ApiError(
        500,
        f"internal error; the log has it under {request_id}",
        kind="server_error",
        code="internal_error",
    )


def _host_name(host: str) -> str:
    """Without port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


async def send_error(error: ApiError, send: Send) -> None:
    """An error as a whole response."""
    body = json.dumps(error.body()).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    headers += [(k.encode(), v.encode()) for k, v in error.headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
