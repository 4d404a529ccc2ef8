"""Bodies and bytes of strangers: answered or refused, in time; no bug, no page held, no growth."""

from __future__ import annotations

import json
import logging
import os
import random
import re
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from halfbyte import LLM
from halfbyte.server.connection import Connection
from halfbyte.server.log import LOGGER, JsonFormatter
from halfbyte.server.schema.chat import ChatBody
from halfbyte.server.schema.completion import CompletionBody
from halfbyte.server.schema.tokens import DetokenizeBody, TokenizeBody
from tests.fuzz.http_inputs import mutated_bytes, mutated_json, rounds, seeds
from tests.server.running import Served, serving

pytestmark = pytest.mark.slow
PATHS = ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize")
BODIES = (CompletionBody, ChatBody, TokenizeBody, DetokenizeBody)
NAMES = tuple(sorted({n for b in BODIES for n in b.model_fields} | {
    "role", "content", "type", "text", "tool_calls", "function", "name", "arguments", "refusal",
    "schema", "json_schema", "anyOf", "$ref", "$defs", "properties", "items", "pattern", "const",
    "json", "regex", "choice", "grammar", "index", "id", "include_usage",
}))  # fmt: skip
REFUSALS = {400, 404, 405, 408, 413, 415, 429, 431, 505}
WORDS = (
    b"\r\n", b"\r\n\r\n", b": ", b"\0", b"\xff", b"0\r\n\r\n", b"ffffffffffffffff\r\n",
    b" HTTP/1.1\r\n", b"content-length: 5\r\n", b"content-length: 99999999999999999999\r\n",
    b"host: x\r\n",
    b"transfer-encoding: chunked\r\n", b"connection: close\r\n", b"expect: 100-continue\r\n",
    b"x: " + b"y" * 70_000 + b"\r\n", b"GET / HTTP/1.1\r\n",
    b"connection: upgrade\r\nupgrade: a\r\n",
)  # fmt: skip
LONGEST_SECONDS = 60.0  # of one request, on a machine with other work
MAX_GROWN_BYTES = 48 << 20


@pytest.fixture
def target(talking_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setattr(Connection, "head_seconds", 0.3)
    monkeypatch.setattr(Connection, "linger_seconds", 0.1)
    llm = LLM(talking_model, "w4a8 > w8a16", threads=1, num_tokens=2048, page_size=16)
    with serving(llm, max_tokens=4, body_timeout=0.3) as server:
        yield server


class Bugs(logging.Handler):
    """Keeps what the log says that no client can have caused."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(JsonFormatter().format(record)[:4000])


@pytest.fixture
def bugs() -> Iterator[Bugs]:
    handler = Bugs()
    names = (LOGGER, "asyncio", "uvicorn.error")
    for name in names:
        logging.getLogger(name).addHandler(handler)
    yield handler
    for name in names:
        logging.getLogger(name).removeHandler(handler)


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Growth:
    """Memory after the first quarter of the rounds' time is what it may have at the end."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._settled = 0

    def look(self, seconds: float) -> None:
        if not self._settled and time.monotonic() - self._began > seconds / 4:
            self._settled = _resident_bytes()

    def check(self) -> None:
        grown = _resident_bytes() - (self._settled or _resident_bytes())
        assert grown < MAX_GROWN_BYTES, f"{grown >> 20} MiB more than before"


def _fitting(rng: random.Random, body: bytes) -> str:
    """Mostly the endpoint that a body is meant for: elsewhere it is refused at its first field."""
    if rng.random() < 0.1:
        return rng.choice(PATHS)
    if b'"tokens"' in body or b'"content"' in body[:12]:
        return "/detokenize" if b'"tokens"' in body else "/tokenize"
    return "/v1/chat/completions" if b'"messages"' in body else "/v1/completions"


def test_bodies(target: Served, bugs: Bugs) -> None:
    corpus, seen, growth = seeds("http-bodies"), Counter[int](), Growth()
    with target.client() as http:
        for seed, rng in rounds():
            body = mutated_json(rng, corpus, NAMES)
            path = _fitting(rng, body)
            began = time.monotonic()
            headers = {"content-type": "application/json"}
            answer = http.post(path, content=body, headers=headers)
            case = f"seed {seed}, {path}: {body[:500]!r}"
            assert time.monotonic() - began < LONGEST_SECONDS, case
            assert answer.status_code == 200 or answer.status_code in REFUSALS, case
            if answer.status_code != 200:
                error = answer.json()["error"]
                assert error["message"], case
                assert "\n" not in error["message"], case
            else:
                assert "Traceback" not in answer.text, case
            assert not bugs.found, f"{case}: {bugs.found[0]}"
            seen[answer.status_code] += 1
            growth.look(60)
    target.wait_until_idle()
    growth.check()
    assert seen[200] > sum(seen.values()) / 50, seen  # it does get past the checks
    assert seen[400] > sum(seen.values()) / 10, seen
    print(dict(seen))


def _said(target: Served, data: bytes, rng: random.Random) -> bytes:
    """Send data in some pieces, hear the answers until it is silent, or hangs up."""
    host, port = target.url.removeprefix("http://").split(":")
    said = b""
    with socket.create_connection((host, int(port)), timeout=0.5) as client, suppress(OSError):
        while data:
            cut = rng.choice((1, 7, 100, 1000, len(data), len(data)))
            client.sendall(data[:cut])
            data = data[cut:]
        if rng.random() < 0.3:
            return said  # it goes away
        while more := client.recv(65536):
            said += more
    return said


def test_bytes(target: Served, bugs: Bugs) -> None:
    corpus, seen, growth = seeds("http-bytes"), Counter[int](), Growth()
    for seed, rng in rounds():
        data = mutated_bytes(rng, corpus, WORDS)
        if rng.random() < 0.5:
            data += b"\r\nconnection: close\r\n\r\n"
        said = _said(target, data, rng)
        case = f"seed {seed}: {data[:500]!r}"
        statuses = [int(s) for s in re.findall(rb"HTTP/1\.1 (\d+) [A-Z]", said)]
        assert all(s in (100, 200) or s in REFUSALS | {401, 403} for s in statuses), case
        assert not bugs.found, f"{case}: {bugs.found[0]}"
        seen.update(statuses)
        if seed % 50 == 0:
            assert httpx.get(target.url + "/health", timeout=LONGEST_SECONDS).status_code == 200
        growth.look(60)
    target.wait_until_idle()
    growth.check()
    assert seen[200] > 0, seen
    assert seen[400] > 0, seen
    print(json.dumps(seen))
