"""What the text must be: response_format, structured_outputs, a forced tool call."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from halfbyte.errors import HalfbyteError
from halfbyte.sampling.json_schema import JSON_SPACE, followable
from halfbyte.sampling.params import StructuredOutputs
from halfbyte.server.errors import bad_request, in_field
from halfbyte.server.schema import sampling
from halfbyte.server.schema.chat import ChatBody, NamedTool, Tool

_ANY_OBJECT = {"type": "object"}


def chat_constraint(body: ChatBody) -> StructuredOutputs | None:
    """The one constraint of a conversation; ApiError 400 for two, or for an impossible one."""
    constraint = text_constraint(body.response_format, body.structured_outputs)
    forced = forced_tools(body)
    if not forced:
        return constraint
    if constraint is not None:
        raise bad_request(
            "tool_choice forces a call and another field constrains the text; give one",
            param="tool_choice",
        )
    return _made(chat_field(body), grammar=_call_grammar(body, forced))


def chat_field(body: ChatBody) -> str:
    """The field of a conversation's body that its constraint comes from."""
    forced = forced_tools(body)
    if len(forced) == 1:
        return _parameters_of(body, forced[0])
    return "tools" if forced else text_field(body.response_format)


def text_field(response_format: sampling.ResponseFormat | None) -> str:
    """The field that `text_constraint` follows."""
    if response_format is None or response_format.type == "text":
        return "structured_outputs"
    return "response_format"


def _parameters_of(body: ChatBody, tool: Tool) -> str:
    index = next(i for i, offered in enumerate(body.tools or ()) if offered is tool)
    return f"tools.{index}.function.parameters"


def forced_tools(body: ChatBody) -> list[Tool]:
    """The tools of which one must be called; empty where none must."""
    if body.tool_choice in (None, "none", "auto"):
        return []
    tools = body.tools or []
    if isinstance(body.tool_choice, NamedTool):
        name = body.tool_choice.function.name
        tools = [tool for tool in tools if tool.function.name == name]
    if not tools:
        raise bad_request(
            "tool_choice asks for a call that 'tools' does not offer", param="tool_choice"
        )
    return tools


def text_constraint(
    response_format: sampling.ResponseFormat | None, structured: sampling.StructuredOutputs | None
) -> StructuredOutputs | None:
    """OpenAI's field or vLLM's."""
    wanted = response_format is not None and response_format.type != "text"
    if wanted and structured is not None:
        raise bad_request(
            "response_format and structured_outputs both constrain the text; give one",
            param="structured_outputs",
        )
    if structured is not None:
        given = {
            name: value
            for name, value in (
                ("json", _ANY_OBJECT if structured.json_ is True else structured.json_),
                ("regex", structured.regex),
                ("choice", structured.choice),
                ("grammar", structured.grammar),
            )
            if value is not None
        }
        return _made("structured_outputs", **given)
    if response_format is None or not wanted:
        return None
    if response_format.type == "json_object":
        return _made("response_format", json_object=True)
    schema = response_format.json_schema and response_format.json_schema.schema_
    if not isinstance(schema, dict):
        raise bad_request(
            "response_format of type json_schema needs json_schema.schema, an object",
            param="response_format",
        )
    return _made("response_format", json=schema)


def _call_grammar(body: ChatBody, tools: Sequence[Tool]) -> str:
    """Lark's: {"name": …, "arguments": …} of one tool. Every schema is a document of its own, so
    that what refers to a place in it finds it there."""
    space = f"/({JSON_SPACE})?/"
    lines = [f"start: {' | '.join(f'call{i}' for i in range(len(tools)))}", f"SPACE: {space}"]
    for i, tool in enumerate(tools):
        parts = ["{", '"name"', ":", json.dumps(tool.function.name), ",", '"arguments"', ":"]
        head = " SPACE ".join(map(json.dumps, parts))
        schema = _followable(tool.function.parameters or _ANY_OBJECT, _parameters_of(body, tool))
        lines += [f"HEAD{i}: {head} SPACE", f"call{i}: HEAD{i} arguments{i} END"]
        lines.append(f"arguments{i}: %json {json.dumps(schema)}")
    return "\n".join([*lines, 'END: SPACE "}"'])


def _followable(schema: dict[str, Any], field: str) -> Any:
    try:
        return followable(schema)
    except (ValueError, RecursionError) as error:
        raise bad_request(
            f"{field}: got {str(error)[:200]}, expected a JSON schema that can be followed; "
            "make it smaller or correct it",
            param=field,
        ) from error


def _made(field: str, **given: Any) -> StructuredOutputs:
    try:
        return StructuredOutputs(**given)
    except HalfbyteError as error:
        raise in_field(error, field) from error
