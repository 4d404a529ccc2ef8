"""A large body that is refused costs little: one error, a bounded look, no delay of others."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from pydantic import BaseModel, ValidationError

from halfbyte import LLM
from halfbyte.errors import QueueFullError
from halfbyte.server import body as server_body
from halfbyte.server.errors import MAX_MESSAGE_CHARS, ApiError
from halfbyte.server.held_bytes import HeldBytes
from halfbyte.server.schema.chat import ChatBody
from halfbyte.server.schema.completion import CompletionBody
from halfbyte.server.schema.tokens import DetokenizeBody, TokenizeBody
from halfbyte.text.chat import ChatTemplate
from halfbyte.text.codec import TextCodec
from tests.server.running import Served, serving

MANY = 20_000
USER = {"role": "user", "content": "a"}
TOOL = {"type": "function", "function": {"name": "f"}}


def _dict(value: str, count: int = MANY) -> str:
    return "{" + ",".join(f'"{i}":{value}' for i in range(count)) + "}"


def _list(value: str, count: int = MANY) -> str:
    return "[" + ",".join([value] * count) + "]"


REFUSED: dict[str, tuple[type[BaseModel], str]] = {
    "prompts": (CompletionBody, f'{{"prompt": {_list(chr(34) * 2)}}}'),
    "bad prompts": (CompletionBody, f'{{"prompt": ["", {_list("5")[1:]}}}'),
    "bad ids": (CompletionBody, f'{{"prompt": {_list("-1")}}}'),
    "empty lists": (CompletionBody, f'{{"prompt": {_list("[]")}}}'),
    "lists of bad ids": (CompletionBody, f'{{"prompt": {_list("[1.5, -1]")}}}'),
    "nulls": (CompletionBody, f'{{"prompt": {_list("null")}}}'),
    "unknown fields": (CompletionBody, _dict("1")),
    "unknown fields inside": (CompletionBody, f'{{"prompt": "", "stream_options": {_dict("1")}}}'),
    "biases": (CompletionBody, f'{{"prompt": "", "logit_bias": {_dict("1")}}}'),
    "bad biases": (CompletionBody, f'{{"prompt": "", "logit_bias": {_dict("null", 1000)}}}'),
    "stops": (CompletionBody, f'{{"prompt": "", "stop": {_list(chr(34) * 2)}}}'),
    "bad stop ids": (CompletionBody, f'{{"prompt": "", "stop_token_ids": {_list("-1")}}}'),
    "choices": (
        CompletionBody,
        f'{{"prompt": "", "structured_outputs": {{"choice": {_list("1")}}}}}',
    ),
    "messages": (ChatBody, f'{{"messages": {_list(json.dumps(USER))}}}'),
    "bad messages": (ChatBody, f'{{"messages": {_list("{}")}}}'),
    "roles": (ChatBody, f'{{"messages": {_list(chr(123) + chr(34) + "role" + chr(34) + ":5}")}}}'),
    "bad parts": (ChatBody, f'{{"messages": [{{"role": "user", "content": {_list("{}")}}}]}}'),
    "parts": (
        ChatBody,
        '{"messages": [{"role": "user", "content": '
        + _list(json.dumps({"type": "text", "text": "a"}))
        + "}]}",
    ),
    "bad calls": (
        ChatBody,
        f'{{"messages": [{{"role": "assistant", "tool_calls": {_list("{}")}}}]}}',
    ),
    "tools": (
        ChatBody,
        f'{{"messages": [{json.dumps(USER)}], "tools": {_list(json.dumps(TOOL))}}}',
    ),
    "bad tools": (ChatBody, f'{{"messages": [{json.dumps(USER)}], "tools": {_list("{}")}}}'),
    "variables": (
        ChatBody,
        f'{{"messages": [{json.dumps(USER)}], "chat_template_kwargs": {_dict("1")}}}',
    ),
    "modalities": (ChatBody, f'{{"messages": [{json.dumps(USER)}], "modalities": {_list("1")}}}'),
    "tokens": (DetokenizeBody, f'{{"tokens": {_list("-1")}}}'),
    "texts": (TokenizeBody, f'{{"prompt": {_list("1")}, "messages": {_list("1")}}}'),
}


@pytest.mark.parametrize(("model", "raw"), REFUSED.values(), ids=REFUSED.keys())
def test_a_body_has_few_faults_however_many_there_are(model: type[BaseModel], raw: str) -> None:
    """They are collected before the first is told: a million would take a gigabyte."""
    with pytest.raises(ValidationError) as error:
        model.model_validate_json(raw)
    is_bias = "null" in raw and "logit_bias" in raw  # at most 1024
    assert error.value.error_count() <= (1024 if is_bias else 4)


@pytest.mark.parametrize("raw", [raw for _, raw in REFUSED.values()], ids=REFUSED.keys())
def test_the_error_of_a_large_body_is_short(http: httpx.Client, raw: str) -> None:
    headers = {"content-type": "application/json"}
    for path in ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"):
        answer = http.post(path, content=raw, headers=headers)
        assert answer.status_code == 400
        assert len(answer.json()["error"]["message"]) <= MAX_MESSAGE_CHARS


LONG: dict[str, tuple[str, Callable[[str], Any]]] = {
    "completions": ("/v1/completions", lambda text: {"prompt": text}),
    "a stream": ("/v1/completions", lambda text: {"prompt": text, "stream": True}),
    "several": ("/v1/completions", lambda text: {"prompt": ["a", text]}),
    "chat": ("/v1/chat/completions", lambda text: {"messages": [USER | {"content": text}]}),
    "tokenize": ("/tokenize", lambda text: {"content": text}),
}


@pytest.mark.parametrize(("path", "body"), LONG.values(), ids=LONG.keys())
@pytest.mark.parametrize("text", ["a b" * 400_000, " " * 9000 + "ab" * 600_000])
def test_a_text_far_beyond_the_context_is_looked_at_in_part(
    served: Served, path: str, body: Any, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    encode = TextCodec.encode

    def counted(self: TextCodec, text: str, *, as_chat: bool = False) -> list[int]:
        seen.append(len(text))
        return encode(self, text, as_chat=as_chat)

    monkeypatch.setattr(TextCodec, "encode", counted)
    with served.client() as http:
        answer = http.post(path, json=body(text))
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"
    assert sum(seen) < 100_000


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/completions", {"prompt": "a" * 600}, "prompt"),
        ("/v1/completions", {"prompt": [5] * 600}, "prompt"),
        ("/v1/completions", {"prompt": [5] * 512}, "prompt"),
        ("/v1/completions", {"prompt": [[5], [5] * 600], "stream": True}, "prompt"),
        ("/v1/chat/completions", {"messages": [USER | {"content": "a" * 600}]}, "messages"),
    ],
)
def test_clients_know_a_prompt_beyond_the_context_by_its_code(
    http: httpx.Client, path: str, body: Any, param: str
) -> None:
    answer = http.post(path, json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", param)
    assert error["type"] == "invalid_request_error"


def test_a_text_longer_than_the_context_can_still_be_counted(http: httpx.Client) -> None:
    for body in ({"prompt": "a" * 900}, {"messages": [USER | {"content": "a" * 900}]}):
        assert http.post("/tokenize", json=body).json()["count"] >= 900


HEAVY: dict[str, tuple[Any, str, Any, str]] = {
    "reading": (server_body, "_checked", {"prompt": "a" * 20_000}, "/v1/completions"),
    "tokenizing": (TextCodec, "encode", {"prompt": "a" * 3000}, "/v1/completions"),
    "tokenizing to count": (TextCodec, "encode", {"prompt": "a" * 3000}, "/tokenize"),
    "naming tokens": (
        TextCodec,
        "token_texts",
        {"prompt": "ab" * 600 + "c " * 150, "return_token_strs": True},
        "/tokenize",
    ),
    "decoding": (TextCodec, "decode", {"tokens": [97] * 3000}, "/detokenize"),
    "rendering": (ChatTemplate, "render", {"messages": [USER], "max_tokens": 1},
        "/v1/chat/completions"),
    "joining parts": (
        server_body,
        "_checked",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 1000}]},
        "/v1/chat/completions",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("where", "name", "body", "path"), HEAVY.values(), ids=HEAVY.keys())
def test_heavy_work_stalls_nobody(
    talking_llm: LLM, where: Any, name: str, body: Any, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loops: list[bool] = []
    real = getattr(where, name)

    def slow(*args: Any, **kwargs: Any) -> Any:
        try:
            asyncio.get_running_loop()
            loops.append(True)
        except RuntimeError:
            loops.append(False)
        return real(*args, **kwargs)

    with serving(talking_llm) as server, server.client() as http:
        monkeypatch.setattr(where, name, slow)
        if name == "token_texts":  # as many as are named in a thread
            monkeypatch.setattr("halfbyte.server.service._INLINE_CHARS", 100)
        http.post(path, json=body)
    assert loops
    assert not any(loops)


def test_bodies_that_arrive_are_bounded_all_together(talking_llm: LLM) -> None:
    held = HeldBytes(100)
    with held.body() as first, held.body() as second:
        held.add(first, b"x" * 60)
        with pytest.raises(ApiError) as error:
            held.add(second, b"x" * 60)
        assert error.value.status == 429
    with held.body() as third:
        held.add(third, b"x" * 100)

    with serving(talking_llm, max_body_bytes=2000) as server:
        host, port = server.url.removeprefix("http://").split(":")
        head = (
            b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n"
            b"content-type: application/json\r\ncontent-length: 1900\r\n\r\n"
        )
        clients = [socket.create_connection((host, int(port)), timeout=10) for _ in range(20)]
        for client in clients:
            client.sendall(head + b" " * 1899)
        time.sleep(0.3)
        with server.client() as http:
            body = {"prompt": "a" * 1800, "max_tokens": 1}
            assert http.post("/v1/completions", json=body).status_code == 429
        for client in clients:
            client.close()
        time.sleep(0.3)
        with server.client() as http:
            body = {"prompt": "a", "max_tokens": 1}
            assert http.post("/v1/completions", json=body).status_code == 200


def test_large_bodies_take_turns(talking_llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, most = [0], [0]
    real = server_body._checked

    def counted(*args: Any) -> Any:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.02)
        inside[0] -= 1
        return real(*args)

    monkeypatch.setattr(server_body, "_checked", counted)
    with serving(talking_llm) as server:
        body = {"prompt": "x" * 30_000}
        threads = [
            threading.Thread(target=lambda: httpx.post(server.url + "/v1/completions", json=body))
            for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert most[0] == 1


def test_between_two_of_many_prompts_the_loop_does_other_work(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, turns, submit = list[int](), [0], served.engine.submit

    def count() -> None:
        turns[0] += 1
        if len(seen) < 24:
            asyncio.get_running_loop().call_soon(count)

    def submitted(*arguments: Any, **named: Any) -> Any:
        if not seen:
            count()
        seen.append(turns[0])
        return submit(*arguments, **named)

    monkeypatch.setattr(served.engine, "submit", submitted)
    body = {"prompt": [[i, 5] for i in range(12)], "max_tokens": 1, "n": 2}
    with served.client() as http:
        assert http.post("/v1/completions", json=body).status_code == 200
    assert len(seen) == 24
    assert len(set(seen)) == 24


def test_a_prompt_that_finds_no_room_takes_those_before_it_back(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit, streams = served.engine.submit, list[Any]()

    def submitted(*arguments: Any, **named: Any) -> Any:
        if len(streams) == 5:
            raise QueueFullError("queue", got="6", expected="5", fix="try later")
        streams.append(submit(*arguments, **named))
        return streams[-1]

    monkeypatch.setattr(served.engine, "submit", submitted)
    body = {"prompt": [[i, 5] for i in range(12)], "max_tokens": 400, "ignore_eos": True}
    with served.client() as http:
        assert http.post("/v1/completions", json=body).status_code == 429
    served.wait_until_idle()


def test_a_request_reads_no_file_of_the_model(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = served.llm.model.source
    body = {"prompt": "a", "max_tokens": 1}
    with served.client() as http:
        assert http.post("/v1/completions", json=body).status_code == 200
        read = property(lambda _: pytest.fail("the tokenizer's file is read again"))
        monkeypatch.setattr(type(source), "tokenizer_json", read)
        assert http.post("/v1/completions", json=body).status_code == 200
