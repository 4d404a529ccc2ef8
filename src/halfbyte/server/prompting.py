"""A checked body's messages and tools -> what the model's chat template reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from halfbyte.server.errors import bad_request
from halfbyte.server.schema.chat import AssistantMessage, Content, Message, Tool, ToolMessage


def template_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Plain dictionaries; parts of a text are joined, arguments of calls are JSON objects."""
    return [_one(message, i) for i, message in enumerate(messages)]


def template_tools(tools: Sequence[Tool] | None) -> list[dict[str, Any]] | None:
    """The tools as templates know them from transformers."""
    return [tool.model_dump(exclude_none=True) for tool in tools] if tools else None


def _one(message: Message, index: int) -> dict[str, Any]:
    # Templates know no developer: it is the newer name of the system.
    role = "system" if message.role == "developer" else message.role
    result: dict[str, Any] = {"role": role, "content": _text(message.content)}
    if isinstance(message, ToolMessage):
        result["tool_call_id"] = message.tool_call_id
    elif message.name is not None:
        result["name"] = message.name
    if isinstance(message, AssistantMessage) and message.tool_calls:
        result["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {
                    "name": call.function.name,
                    "arguments": _arguments(call.function.arguments, index),
                },
            }
            for call in message.tool_calls
        ]
    return result


def _text(content: Content | None) -> str:
    if content is None:
        return ""
    return content if isinstance(content, str) else "\n".join(part.text for part in content)


def _arguments(text: str, index: int) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise bad_request(
            "the arguments of a tool call must be a JSON object, as text",
            param=f"messages.{index}.tool_calls",
        )
    return values
