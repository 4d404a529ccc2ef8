"""Conversations and chat templates in the styles of public families, for comparisons."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

DIRECTORY = Path(__file__).parents[1] / "data" / "chat_templates"
TEMPLATES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(DIRECTORY.iterdir())}
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}


def function(name: str, description: str | None = None, **properties: Any) -> dict[str, Any]:
    """A tool with these parameters, the first of which is required."""
    parameters = {"type": "object", "properties": properties, "required": list(properties)[:1]}
    made = {"name": name, "parameters": parameters}
    if description is not None:
        made["description"] = description
    return {"type": "function", "function": made}


def call(name: str, arguments: Any, id: str = "abcdef123") -> dict[str, Any]:
    """A call of an earlier answer."""
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


TOOLS = [
    function(
        "weather",
        'Says "how it is" in a place. Größe 1 < 2.',
        city={"type": "string", "description": "Which?"},
        unit={"type": "string", "enum": ["celsius", "kelvin"]},
        days={"type": ["integer", "null"]},
    ),
    function("now"),
    function(
        "plan",
        "",
        steps={
            "type": "array",
            "items": {"type": "object", "properties": {"n": {"type": "integer"}}},
        },
        dry={"type": "boolean"},
    ),
]
_SYSTEM = {"role": "system", "content": "  Be brief.\nBe kind. "}
_ASKED = {"role": "user", "content": 'Grüße! What\'s the weather in "Bonn"? <b> '}
_ANSWER = {"role": "assistant", "content": "Fine.\n"}
_CALL = {"role": "assistant", "tool_calls": [call("weather", {"city": "Köln", "days": 2})]}
_RESULT = {"role": "tool", "tool_call_id": "abcdef123", "name": "weather", "content": '{"t": 3}'}
_TWO = {
    "role": "assistant",
    "content": "I look.",
    "tool_calls": [
        call("weather", {"city": 'it\'s "so"', "unit": None}),
        call("plan", {"steps": [{"n": 1}], "dry": True}, "bbbbbb222"),
    ],
}
_SECOND = {"role": "tool", "tool_call_id": "bbbbbb222", "content": "done\n"}
_THOUGHT = {"role": "assistant", "content": "Warm.", "reasoning_content": "\nHm.\n"}
_TAGGED = {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nWarm."}

CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "a question": [_ASKED],
    "with a system": [_SYSTEM, _ASKED],
    "an answer": [_ASKED, _ANSWER, _ASKED],
    "ends with an answer": [_SYSTEM, _ASKED, _ANSWER],
    "a call": [_ASKED, _CALL],
    "a result": [_SYSTEM, _ASKED, _CALL, _RESULT],
    "after a result": [_ASKED, _CALL, _RESULT, _ANSWER, _ASKED],
    "two calls": [_ASKED, _TWO, _RESULT, _SECOND],
    "no content": [_ASKED, {**_CALL, "content": None}, _RESULT],
    "arguments as text": [
        _ASKED,
        {"role": "assistant", "content": "", "tool_calls": [call("now", '{"a": "ü"}')]},
    ],
    "thoughts": [_ASKED, _THOUGHT],
    "old thoughts": [_ASKED, _TAGGED, _ASKED, _THOUGHT],
    "thoughts at a call": [_ASKED, {**_CALL, "reasoning_content": "Look it up."}, _RESULT],
    "parts": [
        {
            "role": "user",
            "content": [{"type": "text", "text": " a "}, {"type": "text", "text": "b"}],
        }
    ],
    "two systems": [_SYSTEM, _ASKED, _SYSTEM, _ASKED],
    "two questions": [_ASKED, _ASKED],
    "another role": [_ASKED, {"role": "critic", "content": "Hm."}],
    "nothing said": [{"role": "user", "content": ""}],
}
VARIABLES: dict[str, dict[str, Any]] = {
    "none": {},
    "no thinking": {"enable_thinking": False, "thinking": False},
    "thinking": {"enable_thinking": True, "thinking": True, "reasoning_effort": "high"},
    "documents": {"documents": [{"title": "t", "text": "d1"}, {"title": "u", "text": "d2"}]},
}


@cache
def template(name: str) -> Any:
    """A `ChatTemplate` of the table; its process is shared by the tests."""
    from halfbyte.text.chat import ChatTemplate

    return ChatTemplate(TEMPLATES[name], **SPECIAL)
