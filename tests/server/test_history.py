"""What clients send back of a conversation: as they were given it, and with what they add to it."""

from __future__ import annotations

import json
import logging
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessage, ParsedChatCompletionMessage
from openai.types.chat.chat_completion_chunk import ChoiceDelta
from pydantic import ValidationError

from halfbyte.server.log import LOGGER, JsonFormatter
from halfbyte.server.prompting import MAX_NAMED, ignored_fields, template_messages
from halfbyte.server.schema.chat import ChatBody
from tests.server.running import NAME, Served

USER = {"role": "user", "content": "Hi"}
CALLED = {"name": "now", "arguments": '{"zone": "UTC"}'}
CALL = {"id": "c1", "type": "function", "function": CALLED}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "noon"}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}


def _body(*messages: Any) -> ChatBody:
    return ChatBody.model_validate_json(json.dumps({"messages": messages}))


def _written(*messages: Any) -> list[dict[str, Any]]:
    return template_messages(_body(*messages).messages)


WRITTEN_CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "now", "arguments": {"zone": "UTC"}}}
    ],
}
# As sent by a client -> as the template reads it.
REPLAYED: dict[str, tuple[Any, Any]] = {
    "the official client's dump": (
        ChatCompletionMessage(role="assistant", content="Hello").model_dump(),
        {"role": "assistant", "content": "Hello"},
    ),
    "its dump of a call": (
        ChatCompletionMessage.model_validate(CALLING).model_dump(),
        WRITTEN_CALL,
    ),
    "its parsed message": (
        ParsedChatCompletionMessage[None]
        .model_validate(
            CALLING | {"tool_calls": [CALL | {"function": CALLED | {"parsed_arguments": {}}}]}
        )
        .model_dump(),
        WRITTEN_CALL,
    ),
    "deltas put together": (
        ChoiceDelta.model_validate(CALLING | {"tool_calls": [CALL | {"index": 0}]}).model_dump(),
        WRITTEN_CALL,
    ),
    "no content and no calls": (
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "assistant", "content": ""},
    ),
    "empty content": ({"role": "assistant", "content": []}, {"role": "assistant", "content": ""}),
    "no type of a call": (
        CALLING | {"tool_calls": [{"id": "c1", "type": None, "function": CALLED}]},
        WRITTEN_CALL,
    ),
    "arguments as an object": (
        CALLING | {"tool_calls": [CALL | {"function": CALLED | {"arguments": {"zone": "UTC"}}}]},
        WRITTEN_CALL,
    ),
    "a name no tool may have": (
        CALLING | {"tool_calls": [{"function": {"name": "get the time", "arguments": "{}"}}]},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"type": "function", "function": {"name": "get the time", "arguments": {}}}
            ],
        },
    ),
    "the older form of a call": (
        {"role": "assistant", "content": None, "function_call": CALLED},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"type": "function", "function": {"name": "now", "arguments": {"zone": "UTC"}}}
            ],
        },
    ),
    "and of its result": (
        {"role": "function", "name": "now", "content": "noon"},
        {"role": "tool", "name": "now", "content": "noon"},
    ),
    "a result with its tool's name": (
        RESULT | {"name": "now"},
        {"role": "tool", "tool_call_id": "c1", "name": "now", "content": "noon"},
    ),
    "a result that is nothing": (
        RESULT | {"content": None},
        {"role": "tool", "tool_call_id": "c1", "content": ""},
    ),
    "a result in parts": (
        RESULT | {"content": [{"type": "text", "text": "noon"}]},
        {"role": "tool", "tool_call_id": "c1", "content": "noon"},
    ),
    "what the model thought": (
        {"role": "assistant", "content": "Hello", "reasoning_content": "A greeting."},
        {"role": "assistant", "content": "Hello", "reasoning_content": "A greeting."},
    ),
    "a refusal": (
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        {"role": "assistant", "content": "No."},
    ),
    "parts of the other interface": (
        {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        {"role": "user", "content": "Hi"},
    ),
}


@pytest.mark.parametrize(("sent", "written"), REPLAYED.values(), ids=REPLAYED.keys())
def test_what_clients_replay_is_read_as_it_was_meant(sent: Any, written: Any) -> None:
    messages = [USER, sent]
    assert _written(*messages) == [USER, written]
    assert not [name for name in ignored_fields(_body(*messages).messages) if "parsed" not in name]


@pytest.mark.parametrize("nothing", ["", "  ", "null", None, "{}", {}])
def test_no_arguments_are_written_in_many_ways(nothing: Any) -> None:
    sent = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": nothing}}]}
    assert _written(sent)[0]["tool_calls"][0]["function"] == {"name": "f", "arguments": {}}
    del sent["tool_calls"][0]["function"]["arguments"]  # type: ignore[index, attr-defined]
    assert _written(sent)[0]["tool_calls"][0]["function"] == {"name": "f", "arguments": {}}


HINTS: dict[str, tuple[Any, list[str]]] = {
    "a hint to cache": (
        {"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": {}}]},
        ["messages.0.content.0.cache_control"],
    ),
    "a field of a proxy": (
        {"role": "assistant", "content": "Hi", "provider_specific_fields": None},
        ["messages.0.provider_specific_fields"],
    ),
    "fields of a call": (
        {
            "role": "assistant",
            "tool_calls": [{"extra": 1, "function": {"name": "f", "parsed_arguments": None}}],
        },
        ["messages.0.tool_calls.0.extra", "messages.0.tool_calls.0.function.parsed_arguments"],
    ),
    "a prefix": (USER | {"prefix": False}, ["messages.0.prefix"]),
}


@pytest.mark.parametrize(("sent", "names"), HINTS.values(), ids=HINTS.keys())
def test_what_clients_add_to_messages_is_left_out_and_named(sent: Any, names: list[str]) -> None:
    body = _body(sent)
    assert sorted(ignored_fields(body.messages)) == names
    plain = json.dumps(template_messages(body.messages))
    assert not any(name.rpartition(".")[2] in plain for name in names)


def test_the_log_names_ignored_fields_not_their_values(
    http: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    added = {f"x{i:02}": "a secret" for i in range(40)}
    body = {"messages": [USER | added], "max_tokens": 1}
    with caplog.at_level(logging.INFO, LOGGER):
        headers = {"x-request-id": "ignored-1"}
        assert http.post("/v1/chat/completions", json=body, headers=headers).status_code == 200
    lines = [JsonFormatter().format(record) for record in caplog.records]
    told = [json.loads(line) for line in lines if '"ignored"' in line]
    assert len(told) == 1
    assert told[0]["id"] == "ignored-1"
    assert told[0]["fields"] == [f"messages.0.x{i:02}" for i in range(MAX_NAMED)]
    assert not any("secret" in line for line in lines)


@pytest.mark.parametrize(
    "kind", ["image_url", "input_audio", "file", "video_url", "image", "x" * 99]
)
def test_a_part_that_is_no_text_is_refused_as_what_it_is(http: httpx.Client, kind: str) -> None:
    parts = [{"type": "text", "text": "Look"}, {"type": kind, kind: {"url": "data:"}}]
    for role in ("user", "tool", "assistant", "system"):
        body = {"messages": [{"role": role, "content": parts}]}
        answer = http.post("/v1/chat/completions", json=body)
        assert answer.status_code == 400
        message = answer.json()["error"]["message"]
        assert kind[:40] in message
        assert "reads text only" in message


def test_typing_errors_beside_the_messages_are_still_named() -> None:
    for field, near in (("mesages", "messages"), ("max_token", "max_tokens")):
        with pytest.raises(ValidationError, match=f"unknown field '{field}'.*'{near}'"):
            ChatBody.model_validate({"messages": [USER], field: 1})


def test_the_official_client_can_go_on_with_what_it_got(served: Served) -> None:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="unused", max_retries=0) as client:
        whole = {"structured_outputs": {"choice": ["ok"]}}
        asked: dict[str, Any] = {"model": NAME, "max_tokens": 5, "extra_body": whole}
        messages: list[Any] = [USER]
        for _ in range(2):
            answer = client.chat.completions.create(messages=messages, **asked)
            messages += [answer.choices[0].message.model_dump(), USER]
        for given in (lambda m: m, lambda m: m.model_dump(), lambda m: m.to_dict()):
            with client.chat.completions.stream(messages=messages, **asked) as stream:
                final = stream.get_final_completion()
            messages += [given(final.choices[0].message), USER]
        client.chat.completions.create(messages=messages, **asked)
