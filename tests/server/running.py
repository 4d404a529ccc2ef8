"""A real server over a tiny model, on a free port, in a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from uvicorn.config import LoopFactoryType

from halfbyte import LLM
from halfbyte.api.async_engine import AsyncEngine
from halfbyte.api.options import AsyncOptions
from halfbyte.server.options import ServeOptions
from halfbyte.server.run import Server, bound

NAME = "tiny"


@dataclass(frozen=True, slots=True)
class Served:
    """What a test talks to."""

    url: str
    engine: AsyncEngine
    llm: LLM
    server: Server

    def limit_connections(self, count: int) -> None:
        self.server.config.limit_concurrency = count

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=120, **options)

    def free_pages(self) -> int:
        return self.llm.model.pool.num_free

    def wait_until_idle(self, seconds: float = 10) -> None:
        """Fails unless every page is free again soon."""
        end = time.monotonic() + seconds
        while self.free_pages() < self.llm.model.pool.num_pages:
            assert time.monotonic() < end, "pages are still held"
            time.sleep(0.01)


@contextmanager
def serving(
    llm: LLM, *, engine: AsyncOptions | None = None, loop: LoopFactoryType = "auto", **options: Any
) -> Iterator[Served]:
    """Serves until the block ends; every page must then be free."""
    running = AsyncEngine(llm, engine)
    asked = ServeOptions(**({"model_name": NAME, "port": 0, "drain_seconds": 5} | options))
    listener = bound(asked.host, asked.port)
    server = Server(running, asked)
    server.config.loop = loop
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    end = time.monotonic() + 20
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        assert time.monotonic() < end
        time.sleep(0.01)
    try:
        yield Served(f"http://127.0.0.1:{listener.getsockname()[1]}", running, llm, server)
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()
        assert not thread.is_alive(), "the server did not stop"
    assert llm.model.pool.num_free == llm.model.pool.num_pages
