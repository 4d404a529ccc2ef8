"""Runs the application under uvicorn until a signal, then drains."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from halfbyte.api.async_engine import AsyncEngine, AsyncOptions
from halfbyte.api.llm import LLM
from halfbyte.errors import ArgumentError
from halfbyte.server.app import build_app
from halfbyte.server.connection import Connection
from halfbyte.server.log import configure, log
from halfbyte.server.options import ServeOptions

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def uvicorn_config(app: ASGIApp, options: ServeOptions) -> uvicorn.Config:
    """How uvicorn is to serve `app`."""
    return uvicorn.Config(
        app,
        host=options.host,
        port=options.port,
        http=Connection,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(options.drain_seconds)),
        timeout_keep_alive=75,  # above the pause between a client's requests, below its own limit
        ws="none",
        lifespan="on",
    )


class _Server(uvicorn.Server):
    """Uvicorn's server, which would end the process by the signal it has just handled."""

    should_exit: bool

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The first signal drains; a second Ctrl-C ends at once."""
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
    config = uvicorn_config(build_app(AsyncEngine(llm, engine_options), options), options)
    server = _Server(config)
    try:
        socket = config.bind_socket()
    except SystemExit as error:
        raise ArgumentError(
            "address",
            got=f"{options.host}:{options.port}",
            expected="a free port on an address of this machine",
            fix="choose another with --port",
        ) from error
    host, port = socket.getsockname()[:2]
    log("serving", url=f"http://{host}:{port}", model=options.model_name, cascade=str(llm.cascade))
    with socket:
        await server.serve(sockets=[socket])
    log("stopped")


def _loop_factory() -> type[asyncio.AbstractEventLoop]:
    """uvloop where it is installed: the loop shares two cores with the model's threads."""
    try:
        import uvloop
    except ImportError:
        return asyncio.SelectorEventLoop
    loop: type[asyncio.AbstractEventLoop] = uvloop.Loop
    return loop
