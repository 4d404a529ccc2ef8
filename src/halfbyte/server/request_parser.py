"""Bytes of a connection -> heads, pieces and ends of requests; anything but HTTP is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol
from urllib.parse import unquote

import httptools

from halfbyte.server.errors import ApiError, bad_request

MAX_HEAD_BYTES = 1 << 16
_VERSIONS = ("1.0", "1.1")
Fields = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Head:
    """Request line and fields."""

    method: str
    version: str  # 1.0 or 1.1
    path: str
    raw_path: bytes
    query: bytes
    fields: Fields  # names in lower case
    keep_alive: bool  # the client will use the connection again
    awaits_continue: bool  # the client sends no body before it is told to


class Sink(Protocol):
    """Receives parts of requests as they arrive. May raise ApiError, which ends the parsing."""

    def on_begin(self) -> None:
        """The first byte of a request has arrived."""

    def on_head(self, head: Head) -> None:
        """Its head is whole."""

    def on_piece(self, piece: bytes) -> None:
        """A piece of its body."""

    def on_end(self) -> None:
        """It is whole."""


class RequestParser:
    """Counts from the first byte: what is no body is at most 64 KiB in a row, be it a head,
    trailers or what stands around chunks. Bodies are bounded by their reader."""

    def __init__(self, sink: Sink) -> None:
        self.is_over = False  # no request follows: an error, or the client said so
        self._sink = sink
        self._parser = httptools.HttpRequestParser(self)
        self._loose = 0  # bytes in a row that are no body, as far as is known
        self._start()
        self._in_head = True
        self._again = b""  # a head whose upgrade is declined

    def feed(self, data: bytes) -> None:
        """Parse; ApiError, which ends the parsing, for anything but HTTP or for too much of it."""
        if self.is_over:
            return
        self._loose += len(data)
        try:
            self._feed(data)
            if self._loose > MAX_HEAD_BYTES:
                raise _too_long()
        except httptools.HttpParserError as error:
            if not self.is_over:  # else it is about bytes after the last request
                self.is_over = True
                raise _fault(error) from error
        except ApiError:
            self.is_over = True
            raise

    def _feed(self, data: bytes) -> None:
        while data:
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                rest = data[upgrade.args[0] :]
            # The client offers another protocol, as Java's does: declined by an answer in this one.
            # The library takes the body for bytes of the other, so the head is parsed again.
            data, self._again = self._again + rest, b""
            self._parser = httptools.HttpRequestParser(self)
            self._start()

    def _start(self) -> None:
        self._url = b""
        self._fields: Fields = []
        self._head_bytes = 0

    # ---- callbacks of the library ----

    def on_message_begin(self) -> None:
        """See httptools."""
        self._in_head = True
        self._sink.on_begin()

    def on_url(self, url: bytes) -> None:
        """See httptools."""
        self._url += url
        self._head_bytes += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """See httptools. Trailers are counted and dropped: a head has been judged without them."""
        if self._in_head:
            self._fields.append((name.lower(), value))
            self._head_bytes += len(name) + len(value) + 4

    def on_headers_complete(self) -> None:
        """See httptools."""
        if self._head_bytes > MAX_HEAD_BYTES:
            raise _too_long()
        if self._parser.get_method() == b"CONNECT":
            raise _malformed("a tunnel is asked for")
        if self._parser.should_upgrade():
            self._again = self._head_without_upgrade()
            return
        head = self._head()
        self._in_head = False
        self._loose = 0
        self._start()
        self._keep_alive = head.keep_alive
        self._sink.on_head(head)

    def on_body(self, piece: bytes) -> None:
        """See httptools."""
        self._loose = 0
        self._sink.on_piece(piece)

    def on_message_complete(self) -> None:
        """See httptools."""
        if self._again:
            return
        self._loose = 0
        self.is_over = not self._keep_alive
        self._sink.on_end()

    # ---- heads ----

    def _head(self) -> Head:
        version = self._parser.get_http_version()
        if version not in _VERSIONS:
            raise ApiError(505, f"HTTP/{version}: this server speaks HTTP/1.1", code="http_version")
        try:
            target = httptools.parse_url(self._url)
            path = unquote((target.path or b"/").decode("ascii"))
        except (httptools.HttpParserError, UnicodeDecodeError) as error:
            raise _malformed("a request target that is no path") from error
        is_new = version == "1.1"
        wanted = dict(self._fields).get(b"expect", b"").lower()
        return Head(
            self._parser.get_method().decode("ascii"),
            version,
            path,
            target.path or b"/",
            target.query or b"",
            self._fields,
            keep_alive=is_new and self._parser.should_keep_alive(),
            awaits_continue=is_new and wanted == b"100-continue",
        )

    def _head_without_upgrade(self) -> bytes:
        version = self._parser.get_http_version().encode("ascii")
        lines = [b"%s %s HTTP/%s" % (self._parser.get_method(), self._url, version)]
        lines += [b"%s: %s" % field for field in self._fields if field[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])


def _fault(error: httptools.HttpParserError) -> Exception:
    """What a callback raised, or what the library found."""
    within = error.__context__
    if isinstance(error, httptools.HttpParserCallbackError) and isinstance(within, Exception):
        return within
    return _malformed(str(error)[:120])


def _malformed(what: str) -> ApiError:
    return bad_request(f"malformed HTTP: {what}", code="malformed_http")


def _too_long() -> ApiError:
    return ApiError(
        431,
        f"head, trailers or chunk extensions over {MAX_HEAD_BYTES} bytes",
        code="head_too_large",
    )
