"""Sizes, queues, time and clients that go away: a refusal by name, and every page back."""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
import time
from contextlib import suppress
from typing import Any
from unittest.mock import Mock

import httpx
import pytest

from halfbyte import LLM, helper_process
from halfbyte.api.options import AsyncOptions
from halfbyte.server.connection import Connection
from tests.server.running import Served, serving

LONG: dict[str, Any] = {"prompt": "the", "temperature": 0, "max_tokens": 450, "ignore_eos": True}


def _post(server: Served, body: Any, path: str = "/v1/completions") -> httpx.Response:
    with server.client() as http:
        return http.post(path, json=body)


def test_a_body_over_the_limit_is_413_however_it_is_sent(talking_llm: LLM) -> None:
    with serving(talking_llm, max_body_bytes=2048) as server, server.client() as http:
        headers = {"content-type": "application/json"}
        assert _post(server, {"prompt": "x" * 4000}).status_code == 413
        pieces = (b"x" * 100 for _ in range(100))  # chunked: no length is declared
        assert http.post("/v1/completions", content=pieces, headers=headers).status_code == 413
        assert _post(server, {"prompt": "x", "max_tokens": 1}).status_code == 200


def test_a_body_that_does_not_arrive_is_408(talking_llm: LLM) -> None:
    with serving(talking_llm, body_timeout=0.2) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as client:
            client.sendall(
                b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n"
                b"content-type: application/json\r\ncontent-length: 50\r\n\r\n{"
            )
            assert b" 408 " in client.recv(4096)


def test_a_full_queue_is_429_with_retry_after_and_harms_nobody(talking_llm: LLM) -> None:
    # Batch 8 and one that waits: the tenth is one too many.
    with serving(talking_llm, engine=AsyncOptions(max_waiting=1)) as server:
        answers: list[httpx.Response] = []
        body = {**LONG, "max_tokens": 100}
        threads = [
            threading.Thread(target=lambda: answers.append(_post(server, body))) for _ in range(30)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        refused = [a for a in answers if a.status_code == 429]
        served = [a for a in answers if a.status_code == 200]
        assert len(answers) == 30 == len(refused) + len(served)
        assert refused
        assert all(int(a.headers["retry-after"]) >= 1 for a in refused)
        assert all(a.json()["error"]["code"] == "queue_full" for a in refused)
        assert len({a.json()["choices"][0]["text"] for a in served}) == 1
        assert len(served) >= 9


def test_more_choices_than_the_queue_holds_leave_nothing_behind(talking_llm: LLM) -> None:
    with serving(talking_llm, engine=AsyncOptions(max_waiting=0)) as server:
        answer = _post(server, {**LONG, "prompt": ["a"] * 9})
        assert answer.status_code == 429
        server.wait_until_idle()
        assert _post(server, {**LONG, "max_tokens": 2}).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("copies", [1, 3])
def test_a_client_that_goes_away_frees_its_pages_at_once(
    served: Served, stream: bool, copies: int
) -> None:
    before = served.engine.snapshot()
    host, port = served.url.removeprefix("http://").split(":")
    body = json.dumps({**LONG, "stream": stream, "n": copies}).encode()
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(
            b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json"
            b"\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
        )
        end = time.monotonic() + 10
        while served.engine.snapshot().emitted_tokens <= before.emitted_tokens + 5:
            assert time.monotonic() < end
            time.sleep(0.001)
    served.wait_until_idle()
    after = served.engine.snapshot()
    assert after.finished["cancelled"] - before.finished["cancelled"] == copies
    assert after.emitted_tokens - before.emitted_tokens < copies * 450


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_over_its_time_ends_with_an_error_not_with_half_an_answer(
    talking_llm: LLM, stream: bool
) -> None:
    with serving(talking_llm, request_timeout=0.02) as server:
        answer = _post(server, {**LONG, "stream": stream})
        if stream:
            last = answer.text.strip().split("\n\n")[-1]
            assert json.loads(last.removeprefix("data: "))["error"]["code"] == "deadline"
        else:
            assert answer.status_code == 408
            assert answer.json()["error"]["code"] == "deadline"


def test_draining_finishes_what_runs(talking_llm: LLM) -> None:
    got: list[httpx.Response] = []
    with serving(talking_llm) as server:
        thread = threading.Thread(target=lambda: got.append(_post(server, LONG)))
        thread.start()
        while server.engine.snapshot().running == 0:
            time.sleep(0.001)
    thread.join()
    assert got[0].status_code == 200
    assert got[0].json()["usage"]["completion_tokens"] == 450


def test_max_tokens_is_cut_to_what_the_server_allows_and_the_context_holds(
    talking_llm: LLM,
) -> None:
    with serving(talking_llm, max_tokens=5) as server:
        for body in (LONG, {**LONG, "max_tokens": 2**31 - 1}):
            answer = _post(server, body).json()
            assert answer["usage"]["completion_tokens"] == 5
            assert answer["choices"][0]["finish_reason"] == "length"
        chat = {"messages": [{"role": "user", "content": "a"}], "ignore_eos": True}
        answer = _post(server, chat, "/v1/chat/completions").json()
        assert answer["usage"]["completion_tokens"] == 5


def test_a_prompt_longer_than_the_context_is_400(served: Served) -> None:
    answer = _post(served, {"prompt": "x" * 5000})
    assert answer.status_code == 400
    assert "context" in answer.json()["error"]["message"]
    served.wait_until_idle()


def _talk(server: Served, *pieces: bytes, pause: float = 0.0) -> bytes:
    """What the server says to a client that sends pieces, one after a pause, until it hangs up."""
    host, port = server.url.removeprefix("http://").split(":")
    said = b""
    with socket.create_connection((host, int(port)), timeout=10) as client:
        with suppress(OSError):  # it may hang up before all is sent
            for piece in pieces:
                client.sendall(piece)
                time.sleep(pause)
        with suppress(OSError):
            while more := client.recv(65536):
                said += more
    return said


def test_a_head_that_does_not_arrive_is_408(
    talking_llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "head_seconds", 0.3)
    whole = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
    with serving(talking_llm) as server:
        assert _talk(server).startswith(b"HTTP/1.1 408 ")  # nothing at all
        drops = (b"GET /health HTTP/1.1\r\n", *[b"a: b\r\n"] * 20)
        assert _talk(server, *drops, pause=0.05).startswith(b"HTTP/1.1 408 ")
        # A kept connection: its second request is as bounded as its first.
        said = _talk(server, whole, b"GET /he", pause=0.1)
        assert said.startswith(b"HTTP/1.1 200 ")
        assert b"HTTP/1.1 408 " in said
        with server.client() as http:  # a pause between requests is no fault
            assert http.get("/health").status_code == 200
            time.sleep(0.6)
            assert http.get("/health").status_code == 200
        # Nor is an answer that takes longer than a head may.
        assert _post(server, LONG).status_code == 200


def test_a_head_without_end_is_431(served: Served) -> None:
    endless = (b"GET /health HTTP/1.1\r\n", *[b"x: " + b"y" * 8000 + b"\r\n"] * 20)
    said = _talk(served, *endless, pause=0.001)
    assert said == b"" or said.startswith(b"HTTP/1.1 431 ")  # reset where it was still sending
    with served.client() as http:
        headers = {f"x-{i}": "y" * 1000 for i in range(8)}
        assert http.get("/health", headers=headers).status_code == 200


def test_a_template_process_that_died_is_replaced_and_one_not_to_be_had_is_503(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1}
    process = served.llm.model.template._process
    for wanted in (200, 503, 200):
        assert process._idle is None or process._idle._process.kill() is None
        time.sleep(0.1)
        with monkeypatch.context() as patched:
            if wanted == 503:
                full = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
                popen = Mock(side_effect=full)
                patched.setattr(helper_process.subprocess, "Popen", popen)
            answer = _post(served, chat, "/v1/chat/completions")
        assert answer.status_code == wanted, answer.text
        if wanted == 503:
            assert "Too many open files" in answer.json()["error"]["message"]
            assert answer.json()["error"]["code"] == "no_resources"
