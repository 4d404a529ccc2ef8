"""Bad input is 400 in OpenAI's shape, names the field, and never reaches the engine."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from halfbyte import LLM
from halfbyte.api.options import AsyncOptions
from tests.server.running import serving

USER = [{"role": "user", "content": "a"}]
COMPLETION: list[tuple[dict[str, Any], str]] = [
    ({}, "prompt"),
    ({"prompt": None}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [[]]}, "prompt"),
    ({"prompt": [1, "a"]}, "prompt"),
    ({"prompt": [-1]}, "prompt"),
    ({"prompt": [1.5]}, "prompt"),
    ({"prompt": [2**40]}, "prompt"),
    ({"prompt": [271, 272]}, "prompt"),  # the vocabulary ends at 271
    ({"prompt": "a", "max_tokens": "5"}, "max_tokens"),
    ({"prompt": "a", "max_tokens": 0}, "max_tokens"),
    ({"prompt": "a", "n": 17}, "n"),
    ({"prompt": "a", "temperature": -1}, "temperature"),
    ({"prompt": "a", "temperature": True}, "temperature"),
    ({"prompt": "a", "top_p": 0}, "top_p"),
    ({"prompt": "a", "stop": [""]}, "stop"),
    ({"prompt": "a", "stop": ["x"] * 65}, "stop"),
    ({"prompt": "a", "logit_bias": {"x": 1}}, "logit_bias"),
    ({"prompt": "a", "logit_bias": {"1": 101}}, "logit_bias"),
    ({"prompt": "a", "cascade": "x > y"}, ""),
    ({"prompt": "a", "best_of": 2, "n": 3}, "best_of"),
    ({"prompt": "a", "best_of": 2, "stream": True}, "best_of"),
    ({"prompt": "a", "suffix": "b"}, "suffix"),
    ({"prompt": "a", "logprobs": 21}, "logprobs"),
    ({"prompt": "a", "chat_template": "{{ 1 }}"}, "chat_template"),
    ({"prompt": "a", "mirostat": 2}, "mirostat"),
    ({"prompt": ["a"] * 65}, "prompt"),
    ({"prompt": [[1]] * 65}, "prompt"),
    ({"prompt": [[1], "a"]}, "prompt"),
    ({"prompt": "a", "logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias"),
]
CHAT: list[tuple[dict[str, Any], str]] = [
    ({}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "robot", "content": "a"}]}, "messages.0"),
    ({"messages": [{"role": "ro\n\u2028bot", "content": "a"}]}, "messages.0"),
    ({"messages": [{"role": "user"}]}, "messages.0.user.content"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages.0.user.content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url":
        "file:///etc/passwd"}}]}]}, "messages.0.user.content"),
    ({"messages": [{"role": "assistant", "audio": {"id": "a"}}]}, "messages.0.assistant.audio"),
    ({"messages": [{"role": "user", "content": None}]}, "messages.0.user.content"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.user.content"),
    ({"messages": [{"role": "user", "content": ["a"]}]}, "messages.0.user.content"),
    ({"messages": USER, "stream_options": {"include": 1}}, "stream_options.include"),
    ({"messages": USER, "chat_template_kwargs": dict.fromkeys(map(str, range(65)))},
     "chat_template_kwargs"),
    ({"messages": USER, "chat_template": "{{ 1 }}"}, "chat_template"),
    ({"messages": USER, "tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0"),
    ({"messages": USER, "tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ({"messages": USER, "tool_choice": "perhaps"}, "tool_choice"),
    ({"messages": USER, "response_format": {"type": "xml"}}, "response_format.type"),
    ({"messages": USER, "top_logprobs": -1}, "top_logprobs"),
]  # fmt: skip


def _refused(http: httpx.Client, path: str, body: Any, field: str) -> None:
    answer = http.post(path, json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert (error["param"] or "").startswith(field), error
    assert "\n" not in error["message"]
    assert "Traceback" not in answer.text


@pytest.mark.parametrize(("body", "field"), COMPLETION)
def test_a_bad_completion_names_its_field(http: httpx.Client, body: Any, field: str) -> None:
    _refused(http, "/v1/completions", body, field)


@pytest.mark.parametrize(("body", "field"), CHAT)
def test_a_bad_chat_names_its_field(http: httpx.Client, body: Any, field: str) -> None:
    _refused(http, "/v1/chat/completions", body, field)


def test_an_unknown_field_names_the_nearest_one(http: httpx.Client) -> None:
    answer = http.post("/v1/completions", json={"prompt": "a", "max_token": 5})
    assert "did you mean 'max_tokens'" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"a"',
        b"\xff\xfe",
        b'{"prompt": "a", "temperature": NaN}',
        b'{"prompt": "a", "temperature": 1e999}',
        b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}",
        b'{"prompt": ' + b"[" * 100_000,
        b'{"prompt": "a", "logit_bias": ' + b'{"1":' * 50_000,
        b'{"prompt": "\\ud800"}',
    ],
)
def test_what_is_no_good_json_is_400(http: httpx.Client, raw: bytes) -> None:
    answer = http.post("/v1/completions", content=raw, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    ["prompt", "messages", "max_tokens", "stop", "n", "seed", "tools", "response_format",
     "stream_options", "logit_bias", "content", "tokens", "tool_choice", "cascade", "priority"]
)  # fmt: skip


@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    path=st.sampled_from(["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"]),
    body=st.dictionaries(FIELDS, JSON, max_size=4),
)
def test_no_body_makes_a_server_error(http: httpx.Client, path: str, body: Any) -> None:
    answer = http.post(path, json={"max_tokens": 1, **body} if "v1" in path else body)
    assert answer.status_code in (200, 400, 404), (answer.status_code, answer.text)
    if answer.status_code != 200:
        assert answer.json()["error"]["message"]


def test_a_compressed_body_is_named(http: httpx.Client) -> None:
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    answer = http.post("/v1/completions", content=b"\x1f\x8b", headers=headers)
    assert answer.status_code == 415
    assert "gzip" in answer.json()["error"]["message"]


def test_unknown_paths_and_methods_have_the_same_shape(http: httpx.Client) -> None:
    for method, path, status in (("GET", "/v1/nothing", 404), ("GET", "/v1/completions", 405)):
        answer = http.request(method, path)
        assert answer.status_code == status
        assert answer.json()["error"]["message"]


def test_a_cascade_that_is_not_allowed_is_refused(talking_llm: LLM) -> None:
    with (
        serving(talking_llm, engine=AsyncOptions(cascades=("w4a16",))) as server,
        server.client() as http,
    ):
        for cascade in ("w4a16", "w8a16", "none"):
            body = {"prompt": "a", "max_tokens": 1, "cascade": cascade}
            assert http.post("/v1/completions", json=body).status_code == 200
        _refused(http, "/v1/completions", {"prompt": "a", "cascade": "w4a4"}, "cascade")
