"""One request of a connection and its answer: what the application receives and sends."""

from __future__ import annotations

import asyncio
from enum import Enum
from http import HTTPStatus
from typing import Any, Protocol

from starlette.types import ASGIApp, Message, Scope

from halfbyte.server.errors import ApiError
from halfbyte.server.log import log_bug

_BODYLESS = (204, 304)


class Link(Protocol):
    """The connection, as an exchange sees it."""

    @property
    def fields(self) -> list[tuple[bytes, bytes]]:
        """Header fields of every answer."""

    def write(self, data: bytes) -> None:
        """Send bytes to the client."""

    async def writable(self) -> None:
        """Return when the client has taken most of what was written."""

    def body_was_read(self) -> None:
        """The application has taken what has come of a body."""

    def answered(self, exchange: Exchange) -> None:
        """The whole answer has been written."""

    def broken(self) -> None:
        """The answer will not be finished."""


class Framing(Enum):
    """How a client knows where the answer ends."""

    LENGTH = "content-length"
    CHUNKED = "chunked"
    CLOSE = "close"  # HTTP/1.0 knows no chunks
    NONE = "none"  # there is no body


class Exchange:
    """Filled by the connection as the request comes in, answered by the application."""

    def __init__(
        self, link: Link, scope: Scope, *, keep_alive: bool, awaits_continue: bool
    ) -> None:
        self.scope = scope
        self.keep_alive = keep_alive
        self.is_whole = False  # the request has come to its end
        self.is_begun = False  # the answer's head has been written
        self.is_answered = False
        self._link = link
        self._awaits_continue = awaits_continue
        self._body = bytearray()
        self._end_told = False
        self._fault: ApiError | None = None
        self._gone = False
        # Every wait for it checks what it waits for and clears it without an await in between, on
        # the loop that sets it: no change is missed.
        self._changed = asyncio.Event()
        self._framing = Framing.NONE
        self._left = 0  # bytes of a declared length that are not written yet

    # ---- the connection's side ----

    @property
    def num_unread(self) -> int:
        """Bytes of the body that the application has not taken."""
        return len(self._body)

    def add(self, piece: bytes) -> None:
        """A piece of the body has come."""
        self._body += piece
        self._changed.set()

    def end(self) -> None:
        """The request is whole."""
        self.is_whole = True
        self._changed.set()

    def fail(self, fault: ApiError) -> None:
        """The rest of the body cannot be read: its receiver gets the reason."""
        self.keep_alive = False
        self._fault = fault
        self._changed.set()

    def leave(self) -> None:
        """The client has gone."""
        self._gone = True
        self._changed.set()

    # ---- the application's side ----

    async def run(self, app: ASGIApp) -> None:
        """Let the application answer."""
        try:
            await app(self.scope, self.receive, self.send)
        except Exception as error:  # the gate tells the client of a bug; this one broke its answer
            log_bug(error)
        finally:  # cancelled too
            if not self.is_answered:
                self._link.broken()

    async def receive(self) -> Message:
        """See the ASGI specification; ApiError where the body breaks off."""
        if self._awaits_continue and not (self.is_begun or self._body or self.is_whole):
            self._awaits_continue = False
            self._link.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while not (self._gone or self.is_answered):
            if self._fault is not None:
                raise self._fault
            if self._body or (self.is_whole and not self._end_told):
                piece = bytes(self._body)
                self._body.clear()
                self._end_told = self.is_whole
                self._link.body_was_read()
                return {"type": "http.request", "body": piece, "more_body": not self.is_whole}
            self._changed.clear()
            await self._changed.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """See the ASGI specification; what a client that has gone is sent is dropped."""
        await self._link.writable()
        if self._gone:
            return
        if message["type"] == "http.response.start":
            self._begin(message["status"], message.get("headers", []))
        else:
            self._continue(message.get("body", b""), ends=not message.get("more_body", False))

    def _begin(self, status: int, fields: list[tuple[bytes, bytes]]) -> None:
        assert not self.is_begun, "an answer begins once"
        self.is_begun = True
        if self._awaits_continue and not self.is_whole:
            self.keep_alive = False  # whether the client still sends the body is its own choice
        self._framing, self._left = self._framed(status, dict(fields))
        if self._framing is Framing.CLOSE:
            self.keep_alive = False
        lines = [b"HTTP/1.1 %d %s" % (status, HTTPStatus(status).phrase.encode())]
        lines += [b"%s: %s" % field for field in (*self._link.fields, *fields)]
        if self._framing is Framing.CHUNKED:
            lines.append(b"transfer-encoding: chunked")
        if not self.keep_alive:
            lines.append(b"connection: close")
        if any(b"\r" in line or b"\n" in line for line in lines):
            raise ValueError("a line break in a header field of an answer")
        self._link.write(b"\r\n".join([*lines, b"", b""]))

    def _framed(self, status: int, fields: dict[bytes, Any]) -> tuple[Framing, int]:
        if self.scope["method"] == "HEAD" or status in _BODYLESS:
            return Framing.NONE, 0
        if b"content-length" in fields:
            return Framing.LENGTH, int(fields[b"content-length"])
        is_old = self.scope["http_version"] == "1.0"
        return (Framing.CLOSE if is_old else Framing.CHUNKED), 0

    def _continue(self, body: bytes, *, ends: bool) -> None:
        assert self.is_begun, "an answer begins with its head"
        assert not self.is_answered, "an answer ends once"
        if self._framing is Framing.CHUNKED:
            chunk = b"%x\r\n%s\r\n" % (len(body), body) if body else b""
            self._link.write(chunk + (b"0\r\n\r\n" if ends else b""))
        elif self._framing is not Framing.NONE:
            self._left -= len(body)
            self._link.write(body)
        if self._framing is Framing.LENGTH and (self._left < 0 or (ends and self._left)):
            raise ValueError("an answer that is not as long as it says")
        if ends:
            self.is_answered = True
            self._changed.set()
            self._link.answered(self)
