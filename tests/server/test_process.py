"""`halfbyte serve` as a process: it says when it listens, drains at a signal, and ends."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.talking_model import write_talking_model

ENDLESS: dict[str, Any] = {
    "prompt": "the", "max_tokens": 100_000, "ignore_eos": True, "n": 4, "stream": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whose answers are long."""
    return write_talking_model(tmp_path_factory.mktemp("model") / "long", max_context=16384)


@contextmanager
def _serve(model: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str, list[Any]]]:
    """The process, its address, and the lines of its log as they come."""
    command = [sys.executable, "-m", "halfbyte", "serve", str(model), "-c", "w8a16", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--num-tokens", "65536", *options], stderr=subprocess.PIPE, text=True
    )
    lines: list[Any] = []
    listens = threading.Event()

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(json.loads(line))
            listens.set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert listens.wait(60)
        assert lines[0]["event"] == "serving"
        yield process, lines[0]["url"], lines
    finally:
        process.kill()
        process.wait()
        reader.join(10)


def test_a_signal_drains_and_what_is_left_ends_with_an_error(model: Path) -> None:
    with _serve(model, "--drain", "0.3") as (process, url, lines):
        with httpx.stream("POST", f"{url}/v1/completions", json=ENDLESS, timeout=60) as answer:
            text = iter(answer.iter_lines())
            next(text)
            process.send_signal(signal.SIGTERM)
            *_, last = [line for line in text if line]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "cancelled"
        assert process.wait(20) == 0
    assert [line["event"] for line in lines][-1] == "stopped"
    assert not any("exception" in line for line in lines)


def test_a_second_interrupt_ends_at_once(model: Path) -> None:
    with _serve(model, "--drain", "600") as (process, url, lines):
        with httpx.stream("POST", f"{url}/v1/completions", json=ENDLESS, timeout=60) as answer:
            text = iter(answer.iter_lines())
            next(text)
            process.send_signal(signal.SIGINT)
            time.sleep(0.5)
            assert process.poll() is None
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
        assert not any("exception" in line for line in lines)


def test_an_idle_server_ends_at_once_though_a_client_keeps_its_connection(model: Path) -> None:
    with _serve(model) as (process, url, _), httpx.Client(base_url=url) as http:
        assert http.get("/health").status_code == 200
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert time.monotonic() - began < 10  # not the half minute of a drain


def test_a_taken_port_is_one_line(model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "halfbyte", "serve", str(model), "-c", "w8a16"]
        ran = subprocess.run(
            [*command, "--port", port], capture_output=True, text=True, timeout=60, check=False
        )
    assert ran.returncode == 2
    assert "in use" in ran.stderr
    assert ran.stderr.count("\n") == 1
