"""Runs the application under uvicorn until a signal, then drains."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Iterator

import uvicorn

from halfbyte.api.async_engine import AsyncEngine
from halfbyte.api.llm import LLM
from halfbyte.api.options import AsyncOptions
from halfbyte.errors import ArgumentError, reraise_machine_fault, told
from halfbyte.server.app import build_app
from halfbyte.server.connection import SURPLUS_CONNECTIONS, Connection
from halfbyte.server.log import configure, log
from halfbyte.server.options import ServeOptions

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_BACKLOG = 2048
_RESERVED_FILES = 32  # for what is no connection: the template's process, logs, files of models
_END_SECONDS = 5  # for clients to read the end of a drained stream


class Server(uvicorn.Server):
    """Uvicorn's server, which tells when it listens, drains the engine and survives its signals."""

    should_exit: bool

    def __init__(self, engine: AsyncEngine, options: ServeOptions) -> None:
        config = uvicorn.Config(
            build_app(engine, options),
            http=Connection,
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=_most_connections(),
            timeout_graceful_shutdown=max(1, round(options.drain_seconds)) + _END_SECONDS,
            timeout_keep_alive=75,  # above the pause between a client's requests, below its limit
            ws="none",
            lifespan="on",
        )
        super().__init__(config)
        self._engine = engine
        self._options = options

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets)
        if self.started and sockets:
            host, port = sockets[0].getsockname()[:2]
            name, cascade = self._options.model_name, str(self._engine.llm.cascade)
            shown = f"[{host}]" if ":" in host else host
            log("serving", url=f"http://{shown}:{port}", model=name, cascade=cascade)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Nothing new is accepted; what is left after a while ends with an error."""
        drained = asyncio.ensure_future(self._engine.stop(self._options.drain_seconds))
        try:
            await super().shutdown(sockets)
        finally:
            if self.force_exit:
                drained.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await drained

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The first signal drains; a second Ctrl-C ends at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._stop, number)
        try:
            yield
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)

    def _stop(self, number: int) -> None:
        log("stopping", signal=signal.Signals(number).name)
        self.force_exit = self.should_exit and number == signal.SIGINT
        self.should_exit = True


def serve(llm: LLM, engine_options: AsyncOptions, options: ServeOptions, log_level: str) -> None:
    """Serve until SIGINT or SIGTERM; unfinished requests get `drain_seconds`."""
    configure(sys.stderr, log_level)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(llm, engine_options, options))


async def _serve(llm: LLM, engine_options: AsyncOptions, options: ServeOptions) -> None:
    with bound(options.host, options.port) as listener:
        server = Server(AsyncEngine(llm, engine_options), options)
        await server.serve(sockets=[listener])
    log("stopped")


def bound(host: str, port: int) -> socket.socket:
    """A socket at the address; ArgumentError or MachineError where there cannot be one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        reraise_machine_fault("socket to listen on", error)
        raise ArgumentError(
            "address",
            got=f"{host}:{port} ({told(error)})",
            expected="a free port on an address of this machine",
            fix="choose another with --host or --port",
        ) from error


def _most_connections() -> int:
    """What the limit on open files leaves beside those that are open now."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        used = len(os.listdir("/proc/self/fd"))
    except OSError:
        used = 0
    return max(soft - used - _RESERVED_FILES - SURPLUS_CONNECTIONS, 1)


def _loop_factory() -> type[asyncio.AbstractEventLoop]:
    """uvloop where it is installed: the loop shares two cores with the model's threads."""
    try:
        import uvloop
    except ImportError:
        return asyncio.SelectorEventLoop
    loop: type[asyncio.AbstractEventLoop] = uvloop.Loop
    return loop
