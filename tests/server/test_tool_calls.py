"""Earlier calls and results become what templates read; tests/text/calls has how they are found."""

from __future__ import annotations

import json
from typing import Any

import pytest

from halfbyte.server.errors import ApiError
from halfbyte.server.prompting import template_messages
from halfbyte.server.schema.chat import ChatBody


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
