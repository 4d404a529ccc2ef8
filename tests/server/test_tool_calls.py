"""Tool calls are found however the text is cut, and no text is lost."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfbyte.server.errors import ApiError
from halfbyte.server.prompting import template_messages
from halfbyte.server.schema.chat import ChatBody
from halfbyte.server.tool_calls import (
    BareCalls,
    Call,
    CallReader,
    TaggedCalls,
    TaggedOrBareCalls,
    reader_for,
)

ONE = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'


def _read(reader: CallReader, pieces: list[str]) -> tuple[str, list[Call]]:
    content, calls = "", []
    for piece in pieces:
        text, found = reader.add(piece)
        content, calls = content + text, calls + found
    text, found = reader.finish()
    return content + text, calls + found


def _cut(text: str, places: list[int]) -> list[str]:
    ends = sorted({min(p, len(text)) for p in places} | {0, len(text)})
    return [text[a:b] for a, b in pairwise(ends)]


@pytest.mark.parametrize(
    ("text", "content", "names"),
    [
        ("hello", "hello", []),
        (ONE, "", ["f"]),
        ("Sure.\n" + ONE, "Sure.", ["f"]),
        (ONE + "\n" + ONE.replace('"f"', '"g"'), "", ["f", "g"]),
        ("a < b <tool", "a < b <tool", []),
        ("<tool_call>not json</tool_call>", "<tool_call>not json</tool_call>", []),
        ('<tool_call>{"name": 3}</tool_call>', '<tool_call>{"name": 3}</tool_call>', []),
        ('<tool_call>{"name": "f", "arguments": {}}', "", ["f"]),
        ("<tool_call>{", "<tool_call>{", []),
        ("a\n\n<tool_call>{</tool_call>\nb\n", "a\n\n<tool_call>{</tool_call>\nb\n", []),
        (f"a\n{ONE}\n\nb\n\nc\n", "ab\n\nc\n", ["f"]),
    ],
)
@given(places=st.lists(st.integers(0, 120), max_size=12))
def test_tagged_calls_are_found_however_the_text_is_cut(
    text: str, content: str, names: list[str], places: list[int]
) -> None:
    got, calls = _read(TaggedCalls(), _cut(text, places))
    assert (got, [c.name for c in calls]) == (content, names)
    assert all(isinstance(json.loads(c.arguments), dict) for c in calls)


@pytest.mark.parametrize(
    ("text", "content", "names"),
    [
        ('{"name": "f", "parameters": {"x": [1]}}', "", ["f"]),
        (' [{"name": "f", "arguments": {}}, {"name": "g", "arguments": {}}]', "", ["f", "g"]),
        ("no call {", "no call {", []),
        ('{"name": "f", "arguments": 5}', '{"name": "f", "arguments": 5}', []),
        ('{"x": 1}', '{"x": 1}', []),
        ('{"name": "Ann", "age": 3}', '{"name": "Ann", "age": 3}', []),
        ('{"name": "h", "arguments": {}}', '{"name": "h", "arguments": {}}', []),
        ("[" * 50_000, "[" * 50_000, []),
        ("", "", []),
    ],
)
@given(places=st.lists(st.integers(0, 80), max_size=8))
def test_bare_calls_are_found_however_the_text_is_cut(
    text: str, content: str, names: list[str], places: list[int]
) -> None:
    got, calls = _read(BareCalls({"f", "g"}), _cut(text, places))
    assert (got, [c.name for c in calls]) == (content, names)


@given(st.text(alphabet='<tool_cal>/{}" a\n'), st.lists(st.integers(0, 60), max_size=8))
def test_text_without_a_call_is_never_lost(text: str, places: list[int]) -> None:
    got, calls = _read(TaggedCalls(), _cut(text, places))
    if not calls and "<tool_call>" not in text:
        assert got == text


def test_the_template_says_which_form_a_model_writes() -> None:
    tagged = "… <tool_call> …"
    assert isinstance(reader_for(tagged, {"f"}, forced=False), TaggedOrBareCalls)
    assert isinstance(reader_for(tagged, {"f"}, forced=True), BareCalls)
    assert isinstance(reader_for("[TOOL_CALLS]", {"f"}, forced=False), BareCalls)


@pytest.mark.parametrize(
    ("text", "content", "names"),
    [
        ('{"name": "f", "arguments": {}}', "", ["f"]),
        ('{"name": "Ann", "age": 3}', '{"name": "Ann", "age": 3}', []),
        ("Sure.\n" + ONE, "Sure.", ["f"]),
        (" " + ONE, " ", ["f"]),
        ("plain", "plain", []),
    ],
)
@given(places=st.lists(st.integers(0, 80), max_size=8))
def test_a_call_without_its_tags_is_found_too(
    text: str, content: str, names: list[str], places: list[int]
) -> None:
    got, calls = _read(TaggedOrBareCalls({"f"}), _cut(text, places))
    assert (got, [c.name for c in calls]) == (content, names)


def _messages(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    body = ChatBody.model_validate_json(json.dumps({"messages": messages}))
    return template_messages(body.messages)


def test_templates_get_arguments_as_objects_and_parts_as_text() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    got = _messages(
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "7"},
    )
    assert [m["role"] for m in got] == ["system", "user", "assistant", "tool"]
    assert got[1]["content"] == "a\nb"
    assert got[2]["content"] == ""
    assert got[2]["tool_calls"][0]["function"] == {"name": "f", "arguments": {"x": 1}}
    assert got[3]["tool_call_id"] == "c1"


@pytest.mark.parametrize("arguments", ["5", "[1]", "{", "[" * 50_000])
def test_arguments_that_are_no_object_are_refused(arguments: str) -> None:
    call = {"id": "c", "function": {"name": "f", "arguments": arguments}}
    with pytest.raises(ApiError, match="JSON object"):
        _messages({"role": "assistant", "tool_calls": [call]})
