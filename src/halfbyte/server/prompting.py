"""A checked body's messages and tools -> what the model's chat template reads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from halfbyte.server.errors import bad_request
from halfbyte.server.schema.chat import (
    AssistantMessage,
    Content,
    Message,
    Sent,
    Tool,
    ToolCall,
    ToolMessage,
)

# Templates know no developer, the newer name of the system, and no function, the older of a tool.
_ROLES = {"developer": "system", "function": "tool"}
MAX_NAMED = 16  # fields that a line of the log lists


def template_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Plain dictionaries; parts of a text are joined, arguments of calls are JSON objects."""
    return [_one(message, i) for i, message in enumerate(messages)]


def ignored_fields(messages: Sequence[Message]) -> list[str]:
    """Where clients have added fields that are left out of the prompt: names, no values."""
    return list(islice(_added(messages, "messages"), MAX_NAMED))


def _added(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _added(item, f"{path}.{index}")
    elif isinstance(value, Sent):
        for name in value.model_extra or ():
            yield f"{path}.{name[:40]}"
        for name in value.model_fields_set & value.__class__.model_fields.keys():
            yield from _added(getattr(value, name), f"{path}.{name}")


def template_tools(tools: Sequence[Tool] | None) -> list[dict[str, Any]] | None:
    """The tools as templates know them from transformers."""
    return [tool.model_dump(exclude_none=True) for tool in tools] if tools else None


def _one(message: Message, index: int) -> dict[str, Any]:
    role = _ROLES.get(message.role, message.role)
    result: dict[str, Any] = {"role": role, "content": _text(message.content)}
    if message.name is not None:
        result["name"] = message.name
    if isinstance(message, ToolMessage) and message.tool_call_id is not None:
        result["tool_call_id"] = message.tool_call_id
    if isinstance(message, AssistantMessage):
        if message.reasoning_content:
            result["reasoning_content"] = message.reasoning_content
        calls = message.tool_calls or []
        if not calls and message.function_call is not None:
            calls = [ToolCall(function=message.function_call)]
        if calls:
            result["tool_calls"] = [_call(call, index) for call in calls]
    return result


def _call(call: ToolCall, index: int) -> dict[str, Any]:
    arguments = _arguments(call.function.arguments, index)
    function = {"name": call.function.name, "arguments": arguments}
    named = {} if call.id is None else {"id": call.id}
    return named | {"type": "function", "function": function}


def _text(content: Content | None) -> str:
    if content is None:
        return ""
    return content if isinstance(content, str) else "\n".join(part.text for part in content)


def _arguments(given: str | dict[str, Any] | None, index: int) -> dict[str, Any]:
    """Of an earlier call: an object, as text or not; models and clients write none as "", null."""
    if isinstance(given, dict):
        return given
    if given is None or not given.strip():
        return {}
    try:
        values = json.loads(given)
    except (ValueError, RecursionError):
        values = given
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise bad_request(
            "the arguments of a tool call must be a JSON object, as text",
            param=f"messages.{index}.tool_calls",
        )
    return values
