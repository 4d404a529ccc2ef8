"""How each server is started, and when it is ready."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from benchmarks.measure.occasion import Subject
from benchmarks.measure.rows import layout
from benchmarks.peers.contenders import PEER_ENVIRONMENT
from halfbyte import __version__
from halfbyte.cascade.cascade import Cascade
from halfbyte.errors import SourceError
from halfbyte.formats.checkpoint import Checkpoint
from halfbyte.importers.resolve import resolve

START_SECONDS = 180.0


class Server(Protocol):
    """A server with a model, for at most some number of streams."""

    @property
    def engine(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def format(self) -> str: ...

    @property
    def cascade(self) -> str: ...

    @property
    def num_bytes(self) -> int: ...

    @property
    def environment(self) -> Mapping[str, str]: ...

    @property
    def extra(self) -> Mapping[str, Any]: ...

    def command(self, port: int) -> Sequence[str]: ...


def subject_of(server: Server) -> Subject:
    """How rows name it."""
    return Subject(server.engine, server.version, server.format, server.num_bytes, server.cascade)


@dataclass(frozen=True, slots=True)
class HalfbyteServer:
    """`halfbyte serve` under one cascade."""

    model: str
    cascade: str
    threads: int
    streams: int
    context: int  # tokens of a stream
    planes: int | None
    options: Sequence[str] = ()  # further ones of its command

    engine = "halfbyte"
    version = __version__
    environment: Mapping[str, str] = field(default_factory=dict, init=False)
    extra: Mapping[str, Any] = field(default_factory=dict, init=False)

    @property
    def format(self) -> str:
        return layout(self.planes)

    @property
    def num_bytes(self) -> int:
        return Checkpoint.open(resolve(self.model, self.planes)).num_bytes

    def command(self, port: int) -> Sequence[str]:
        Cascade.parse(self.cascade)
        path = resolve(self.model, self.planes)
        command = [sys.executable, "-m", "halfbyte", "serve", str(path), "--port", str(port)]
        command += ["--cascade", self.cascade, "--threads", str(self.threads)]
        command += ["--max-batch", str(self.streams), "--log-level", "error"]
        return [*command, "--num-tokens", str(self.streams * self.context), *self.options]


@dataclass(frozen=True, slots=True)
class LlamaServer:
    """llama.cpp's server: as many slots as streams, continuous batching, huge pages."""

    program: Path
    gguf: Path
    threads: int
    streams: int
    context: int

    engine = "llama.cpp"
    cascade = ""
    environment = PEER_ENVIRONMENT
    # Its prompt cache compares with what a slot held before; no prompt here shares a beginning.
    extra: Mapping[str, Any] = field(default_factory=lambda: {"cache_prompt": False}, init=False)

    @property
    def version(self) -> str:
        done = subprocess.run(
            [str(self.program), "--version"], capture_output=True, text=True, check=False
        )
        return version_of(done.stdout + done.stderr)

    @property
    def format(self) -> str:
        return self.gguf.name.removesuffix(".gguf").rpartition(".")[2]

    @property
    def num_bytes(self) -> int:
        return self.gguf.stat().st_size

    def command(self, port: int) -> Sequence[str]:
        command = [str(self.program), "-m", str(self.gguf), "--port", str(port)]
        command += ["--host", "127.0.0.1", "-t", str(self.threads), "-tb", str(self.threads)]
        command += ["-np", str(self.streams), "-c", str(self.streams * self.context)]
        return [*command, "--cont-batching", "--log-disable"]


@dataclass(frozen=True, slots=True)
class Running:
    """A server process that answers."""

    port: int
    pid: int


def version_of(said: str) -> str:
    """What stands after `version:` in what a program says of itself, or else its first line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    named = [line.removeprefix("version:").strip() for line in lines if line.startswith("version:")]
    return (named or lines or ["unknown"])[0]


@contextmanager
def running(server: Server, cpus: Sequence[int]) -> Iterator[Running]:
    """A started server that answers; it is ended afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    pinned = ["taskset", "-c", ",".join(map(str, cpus)), *server.command(port)]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            pinned, stdout=said, stderr=said, env={**os.environ, **server.environment}
        )
        try:
            _wait(process, port, server)
            yield Running(port, process.pid)
        except BaseException:
            said.seek(0)
            sys.stderr.write(said.read()[-2000:].decode(errors="replace"))
            raise
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, server: Server) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    raise SourceError(
        f"{server.engine} server",
        got=f"status {process.poll()}",
        expected="an answer from /health",
        fix="run its command by hand",
    )
