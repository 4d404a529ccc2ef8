"""One connection: exchanges one after the other, and an end to every wait for the client.

A head has to come in time (408), so has the rest of a request that was answered early; a pause
between requests ends, and so does the patience with a client that takes nothing of its answer.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import uvicorn
from starlette.types import Scope
from uvicorn.server import ServerState

from halfbyte.server.errors import ApiError
from halfbyte.server.exchange import Exchange
from halfbyte.server.gate import REFUSAL
from halfbyte.server.log import log
from halfbyte.server.request_parser import Fields, Head, RequestParser

HEAD_SECONDS = 20.0  # from the connection, or the first byte of a later request
LINGER_SECONDS = 5.0  # for the rest of a request that has been answered
STALL_SECONDS = 60.0  # in which a client takes nothing of what it is sent
LINGER_BYTES = 8 << 20  # dropped; a client that sends a larger body may miss why it is refused
MAX_UNREAD_BYTES = 1 << 16  # of a body; then the client has to wait
MAX_PIPELINED = 16  # requests behind one that is being answered
SURPLUS_CONNECTIONS = 16  # beyond the limit, which are told so
FULL_SECONDS = 60.0  # between two lines of the log about it
FULL_CAUSE = "the limit on open files (ulimit -n)"
# What a refusal answers where no request could be read.
NO_HEAD = Head("-", "1.1", "-", b"-", b"", [], keep_alive=False, awaits_continue=False)


class Connection(asyncio.Protocol):
    """Speaks HTTP/1.1 and 1.0 with one client. Everything runs on the event loop."""

    head_seconds, linger_seconds, stall_seconds = HEAD_SECONDS, LINGER_SECONDS, STALL_SECONDS
    _full_told = -math.inf  # when the log last was

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._loop = _loop or asyncio.get_running_loop()
        self._config = config
        self._server = server_state
        self._app_state = app_state
        self._transport: asyncio.Transport = None  # type: ignore[assignment]
        self._parser = RequestParser(self)
        self._receiving: Exchange | None = None  # its head has come, its end has not
        self._answering: Exchange | None = None
        self._queue: deque[Exchange] = deque()
        self._dropped = 0  # bytes of what has been answered, or refused
        self._is_surplus = False  # there are as many connections as the machine allows
        self._is_refused = False  # the client may still be sending, and nothing reads it
        self._is_closing = False
        self._timer: asyncio.TimerHandle | None = None  # of what is awaited from the client
        self._awaits_head = False
        self._look: asyncio.TimerHandle | None = None  # at what is not sent yet
        self._unsent = 0  # bytes, when last looked at
        self._moved = 0.0  # when that last became less
        self._writable = asyncio.Event()
        self._writable.set()

    # ---- the transport ----

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first head is awaited from now on."""
        self._transport = transport
        self._server.connections.add(self)  # type: ignore[arg-type]
        limit = self._config.limit_concurrency
        if limit is not None and len(self._server.connections) > limit:
            self._is_surplus = True
            self._log_full(limit)
            if len(self._server.connections) > limit + SURPLUS_CONNECTIONS:
                transport.abort()
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited any more; the task that answers learns that the client has gone."""
        self._server.connections.discard(self)
        self._is_closing = True
        self._unset_timer()
        self._unset_look()
        for exchange in (self._receiving, self._answering, *self._queue):
            if exchange is not None:
                exchange.leave()
        self._queue.clear()
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        """Parse it, or drop it where nothing is read any more."""
        if self._is_closing or self._parser.is_over:
            self._drop(len(data))
            return
        if self._timer is not None and self._receiving is None and not self._awaits_head:
            self._await_head()  # a pause has ended, be it with an empty line
        try:
            self._parser.feed(data)
        except ApiError as error:
            self._refuse(error)
        self._balance()

    def _log_full(self, limit: int) -> None:
        now = self._loop.time()
        if now > Connection._full_told + FULL_SECONDS:
            Connection._full_told = now
            log("full", level=logging.WARNING, connections=limit, cause=FULL_CAUSE)

    def pause_writing(self) -> None:
        """The client does not keep up: the writer has to wait."""
        self._writable.clear()
        self._watch_sending()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._writable.set()
        if not self._is_closing:
            self._unset_look()

    def shutdown(self) -> None:
        """The server stops: close after the answer under way, or now."""
        if self._answering is None:
            self._close()
        else:
            self._answering.keep_alive = False

    # ---- the parser ----

    def on_begin(self) -> None:
        """A request begins, perhaps while one before it is being answered."""
        if not self._awaits_head:
            self._await_head()

    def on_head(self, head: Head) -> None:
        """The application can begin."""
        self._unset_timer()
        if len(self._queue) >= MAX_PIPELINED:
            raise ApiError(429, f"over {MAX_PIPELINED} requests before an answer", code="pipelined")
        scope = self._scope(head)
        if self._is_surplus:
            scope[REFUSAL] = _full(self._config.limit_concurrency)
        self._receiving = Exchange(
            self,
            scope,
            keep_alive=head.keep_alive and not self._is_surplus,
            awaits_continue=head.awaits_continue,
        )
        self._enqueue(self._receiving)

    def on_piece(self, piece: bytes) -> None:
        """A piece of a body."""
        assert self._receiving is not None
        if self._receiving.is_answered:
            self._drop(len(piece))
        else:
            self._receiving.add(piece)

    def on_end(self) -> None:
        """A request is whole; its answer may be, too."""
        exchange, self._receiving = self._receiving, None
        assert exchange is not None
        exchange.end()
        if exchange.is_answered and not self._is_closing:
            self._unset_timer()
            self._go_on()

    # ---- exchanges ----

    @property
    def fields(self) -> Fields:
        """Header fields of every answer."""
        return self._server.default_headers

    def write(self, data: bytes) -> None:
        """Send bytes to the client."""
        self._transport.write(data)

    async def writable(self) -> None:
        """Wait until the client has taken most of what was written, or has gone.

        The wait ends: the transport resumes, or `_look_at_sending` aborts it and `connection_lost`
        sets the event. Both happen on this loop, so none falls between look and wait.
        """
        await self._writable.wait()

    def body_was_read(self) -> None:
        """More of it may come."""
        self._balance()

    def answered(self, exchange: Exchange) -> None:
        """Go on with the next request, await the rest of this one, or close."""
        self._answering = None
        self._server.total_requests += 1
        if self._is_closing:
            return
        if not exchange.keep_alive:
            self._close()
        elif exchange.is_whole:
            self._go_on()
        else:
            self._await(self.linger_seconds, self._close)
        self._balance()

    def broken(self) -> None:
        """Half an answer: the client must not take it for a whole one."""
        self._transport.abort()

    def _scope(self, head: Head) -> Scope:
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": head.version,
            "scheme": "http",
            "server": self._transport.get_extra_info("sockname"),
            "client": self._transport.get_extra_info("peername"),
            "root_path": "",
            "method": head.method,
            "path": head.path,
            "raw_path": head.raw_path,
            "query_string": head.query,
            "headers": head.fields,
            "state": dict(self._app_state),
        }

    def _enqueue(self, exchange: Exchange) -> None:
        if self._answering is None:
            self._start(exchange)
        else:
            self._queue.append(exchange)

    def _start(self, exchange: Exchange) -> None:
        self._answering = exchange
        task = self._loop.create_task(exchange.run(self._config.loaded_app))
        self._server.tasks.add(task)
        task.add_done_callback(self._server.tasks.discard)

    def _go_on(self) -> None:
        """A request has been received and answered."""
        if self._queue:
            self._start(self._queue.popleft())
        elif self._parser.is_over:
            self._close()
        elif not self._awaits_head:
            self._await(self._config.timeout_keep_alive, self._close)

    def _refuse(self, error: ApiError) -> None:
        """Tell the client, after the answers under way. The parser has ended."""
        self._is_refused = True
        self._unset_timer()
        exchange, self._receiving = self._receiving, None
        if exchange is None:
            scope = self._scope(NO_HEAD)
            scope[REFUSAL] = error
            exchange = Exchange(self, scope, keep_alive=False, awaits_continue=False)
            exchange.end()
            self._enqueue(exchange)
        elif exchange.is_answered:
            self._close()
        else:
            exchange.fail(error)

    # ---- waits and ends ----

    def _await(self, seconds: float, then: Callable[[], None]) -> None:
        self._unset_timer()
        self._timer = self._loop.call_later(seconds, then)

    def _await_head(self) -> None:
        self._await(self.head_seconds, self._head_is_late)
        self._awaits_head = True

    def _head_is_late(self) -> None:
        if self._queue:  # the server is what does not read
            self._await_head()
            return
        self._parser.is_over = True
        told = f"no whole head of a request within {self.head_seconds:g} s"
        self._refuse(ApiError(408, told, kind="timeout_error", code="head_timeout"))

    def _unset_timer(self) -> None:
        self._awaits_head = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _balance(self) -> None:
        """Read on unless the application lags behind; requests that wait are few, so they count."""
        if self._transport.is_closing():
            return
        receiving = self._receiving
        is_full = receiving is not None and receiving.num_unread > MAX_UNREAD_BYTES
        if not self._is_closing and (is_full or self._queue):
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _drop(self, count: int) -> None:
        self._dropped += count
        if self._dropped > LINGER_BYTES:
            self._transport.abort()

    def _close(self) -> None:
        """Send what is written, then close; a little later if the client still sends.

        Closing at once would let its system throw away the answer that it has not read yet.
        """
        if self._is_closing or self._transport.is_closing():
            return
        self._is_closing = True
        self._queue.clear()
        self._unset_timer()
        if self._receiving is None and not self._is_refused:
            self._transport.close()
        else:
            with suppress(OSError):
                self._transport.write_eof()
            self._balance()
        self._watch_sending()

    def _watch_sending(self) -> None:
        """From now on the client has to take something now and then, or it is hung up on."""
        self._unset_look()
        self._unsent, self._moved = self._transport.get_write_buffer_size(), self._loop.time()
        self._look = self._loop.call_later(self.linger_seconds, self._look_at_sending)

    def _look_at_sending(self) -> None:
        unsent, now = self._transport.get_write_buffer_size(), self._loop.time()
        if unsent < self._unsent:
            self._moved = now
        is_over = unsent == 0 and self._is_closing
        if is_over or (unsent > 0 and now - self._moved > self.stall_seconds):
            self._transport.abort()
            return
        self._unsent = unsent
        self._look = self._loop.call_later(self.linger_seconds, self._look_at_sending)

    def _unset_look(self) -> None:
        if self._look is not None:
            self._look.cancel()
            self._look = None


def _full(limit: int | None) -> ApiError:
    return ApiError(
        503,
        f"{limit} connections are open, all that {FULL_CAUSE} allows; come again later",
        kind="server_error",
        code="no_resources",
        headers={"retry-after": "1"},
    )
