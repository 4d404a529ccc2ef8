"""Thousands of mixed requests: right outputs, no stuck stream, every page back, memory level."""

from __future__ import annotations

import asyncio
import json
import os
import random
from pathlib import Path
from typing import Any

import httpx
import pytest

from halfbyte import LLM, SamplingParams
from halfbyte.api.options import AsyncOptions
from halfbyte.api.results import Completion
from tests.server.running import Served, serving

pytestmark = pytest.mark.slow
# 10,000 before a release: HALFBYTE_SOAK_REQUESTS=10000
REQUESTS = int(os.environ.get("HALFBYTE_SOAK_REQUESTS", "1500"))
STREAMS = 24
LONGEST = 60
CASCADES = (None, "none", "w4a4 > w8a16", "w8a8 > w8a16", "ngram > w8a16")
SHARED = "the thing in there, " * 6  # a prefix that a cache can share
PROMPTS = ["a", "the", SHARED + "one", SHARED + "two", SHARED + "three", "0123456789" * 9]
SETTINGS: list[dict[str, Any]] = [{"temperature": 0}, {"temperature": 0.9, "seed": 7}]
MALFORMED = [
    b"",
    b"{",
    b"[" * 5000,
    b'{"prompt": 5}',
    b'{"prompt": "a", "max_tokens": -1}',
    b'{"prompt": "a", "cascade": "x"}',
    b'{"prompt": "' + b"x" * 9000 + b'"}',
    b'{"prompt": "a", "unknown": 1}',
    b"\xff" * 50,
]
JSON = {"content-type": "application/json"}


class Client:
    """Sends one random request after the other and checks each answer."""

    def __init__(self, url: str, wanted: dict[tuple[int, int], Completion], seed: int) -> None:
        self._url = url
        self._wanted = wanted
        self._random = random.Random(seed)
        self.done = {"whole": 0, "stream": 0, "left": 0, "malformed": 0, "busy": 0}

    async def run(self, count: int) -> None:
        limits = httpx.Limits(max_connections=4)
        async with httpx.AsyncClient(base_url=self._url, timeout=60, limits=limits) as http:
            for _ in range(count):
                kind = self._random.choice(("whole", "stream", "left", "malformed"))
                self.done[await getattr(self, f"_{kind}")(http)] += 1

    def _body(self) -> tuple[dict[str, Any], Completion, int]:
        p, s = self._random.randrange(len(PROMPTS)), self._random.randrange(len(SETTINGS))
        count = self._random.randint(1, LONGEST)
        body = {"prompt": PROMPTS[p], "max_tokens": count, "ignore_eos": True, "logprobs": 0}
        cascade = self._random.choice(CASCADES)
        return {**body, **SETTINGS[s], "cascade": cascade}, self._wanted[p, s], count

    async def _whole(self, http: httpx.AsyncClient) -> str:
        body, wanted, count = self._body()
        answer = await http.post("/v1/completions", json=body)
        if answer.status_code == 429:
            return "busy"
        assert answer.status_code == 200, answer.text[:300]
        choice = answer.json()["choices"][0]
        assert choice["logprobs"]["token_logprobs"] == wanted.logprobs[:count]
        assert choice["finish_reason"] == "length"
        return "whole"

    async def _stream(self, http: httpx.AsyncClient) -> str:
        body, wanted, count = self._body()
        got: list[float] = []
        async with http.stream("POST", "/v1/completions", json={**body, "stream": True}) as answer:
            if answer.status_code == 429:
                return "busy"
            last = ""
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    got += json.loads(line[6:])["choices"][0]["logprobs"]["token_logprobs"]
                last = line or last
        assert last == "data: [DONE]"
        assert got == wanted.logprobs[:count]
        return "stream"

    async def _left(self, http: httpx.AsyncClient) -> str:
        """Goes away after some events, or at once."""
        body, _, _ = self._body()
        async with http.stream("POST", "/v1/completions", json={**body, "stream": True}) as answer:
            remaining = self._random.randint(0, 6)
            async for _ in answer.aiter_lines():
                remaining -= 1
                if remaining < 0:
                    break
        return "left"

    async def _malformed(self, http: httpx.AsyncClient) -> str:
        raw = self._random.choice(MALFORMED)
        path = self._random.choice(("/v1/completions", "/v1/chat/completions"))
        answer = await http.post(path, content=raw, headers=JSON)
        assert answer.status_code == 400, answer.text[:300]
        return "malformed"


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _soak(server: Served, wanted: dict[tuple[int, int], Completion], count: int, seed: int) -> Any:
    async def main() -> list[Client]:
        clients = [Client(server.url, wanted, seed * 1000 + i) for i in range(STREAMS)]
        await asyncio.gather(*(client.run(count // STREAMS) for client in clients))
        return clients

    clients = asyncio.run(asyncio.wait_for(main(), 3000))
    server.wait_until_idle()
    return {kind: sum(c.done[kind] for c in clients) for kind in clients[0].done}


def test_a_soak_leaves_nothing_behind(talking_model: Path) -> None:
    # Few pages: requests wait and are preempted all the time.
    llm = LLM(talking_model, "w4a8 > w8a16", threads=2, num_tokens=512, page_size=16, max_batch=12)
    plain = llm.with_cascade("w8a16")
    wanted = {}
    for p, prompt in enumerate(PROMPTS):
        for s, settings in enumerate(SETTINGS):
            params = SamplingParams(max_tokens=LONGEST, ignore_eos=True, **settings)
            wanted[p, s] = plain.generate(prompt, params)[0]
    engine = AsyncOptions(max_waiting=8)
    with serving(llm, engine=engine) as server:
        _soak(server, wanted, REQUESTS // 4, 1)
        settled = _resident_bytes()
        done = _soak(server, wanted, REQUESTS, 2)
        grown = _resident_bytes() - settled
        snapshot = server.engine.snapshot()
    assert all(done[kind] > 0 for kind in ("whole", "stream", "left", "malformed")), done
    assert snapshot.finished["cancelled"] > 0
    assert snapshot.preemptions > 0
    assert snapshot.refused > 0
    assert snapshot.accepted_by_position[0] > 0
    assert (snapshot.running, snapshot.waiting) == (0, 0)
    assert grown < 24 << 20, f"{grown / 2**20:.0f} MiB more than before"
