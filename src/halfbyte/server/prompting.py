"""A checked body's conversation -> what the model's chat template reads, and the prompt."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from starlette.requests import Request

from halfbyte.errors import HalfbyteError
from halfbyte.server.errors import api_error, bad_request
from halfbyte.server.log import log
from halfbyte.server.schema.chat import (
    AssistantMessage,
    ChatBody,
    Content,
    Message,
    Sent,
    Tool,
    ToolCall,
    ToolMessage,
)
from halfbyte.server.schema.tokens import TokenizeBody
from halfbyte.server.service import Service, request_id
from halfbyte.text.dialect import Written

# Templates know no developer, the newer name of the system, and no function, the older of a tool.
_ROLES = {"developer": "system", "function": "tool"}
MAX_NAMED = 16  # fields that a line of the log lists


@dataclass(frozen=True, slots=True)
class Conversation:
    """What is to be written out, and how."""

    messages: Sequence[Message]
    tools: list[dict[str, Any]] | None = None
    variables: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    special_tokens: bool = False

    @classmethod
    def of_chat(cls, body: ChatBody) -> Conversation:
        """That of a chat completion."""
        return cls(
            body.messages,
            template_tools(body.tools) if body.tool_choice != "none" else None,
            _variables(body),
            body.add_generation_prompt,
            bool(body.continue_final_message),
            bool(body.special_tokens_in_messages),
        )

    @classmethod
    def of_tokens(cls, body: TokenizeBody, messages: Sequence[Message]) -> Conversation:
        """That of a request for token ids."""
        return cls(
            messages,
            template_tools(body.tools),
            body.chat_template_kwargs,
            body.add_generation_prompt,
            bool(body.continue_final_message),
            bool(body.special_tokens_in_messages),
        )


def _variables(body: ChatBody) -> dict[str, Any]:
    """Those for the template: of thinking, under each name that templates have for it."""
    thinks = body.enable_thinking
    if thinks is None and body.reasoning_effort is not None:
        thinks = body.reasoning_effort != "none"
    named: dict[str, Any] = (
        {} if thinks is None else {"enable_thinking": thinks, "thinking": thinks}
    )
    if body.reasoning_effort not in (None, "none"):
        named["reasoning_effort"] = body.reasoning_effort
    return named | (body.chat_template_kwargs or {})


async def write_chat(
    request: Request, service: Service, conversation: Conversation
) -> tuple[Written, list[int]]:
    """A conversation's prompt and its token ids; ApiError 400 where the template refuses it."""

    def write() -> tuple[Written, list[str]]:
        dialect = service.model.dialect  # its process may have to be started
        if conversation.tools and not dialect.template.supports_tools:
            raise bad_request(
                "tools: the chat template of this model does not know tools; leave them out",
                param="tools",
            )
        written = dialect.write(
            template_messages(conversation.messages),
            tools=conversation.tools,
            variables=conversation.variables,
            add_generation_prompt=conversation.add_generation_prompt,
            continue_final_message=conversation.continue_final_message,
            special_tokens=conversation.special_tokens,
        )
        if conversation.tools:
            _ = dialect.profile  # found once, beside the loop
        return written, ignored_fields(conversation.messages)

    try:
        # Another process renders: the loop must not wait for it.
        async with service.rendering:
            written, ignored = await asyncio.to_thread(write)
    except HalfbyteError as error:
        raise api_error(error, param="messages") from error
    if ignored:
        log("ignored", id=request_id(request), fields=ignored)
    dialect = service.model.dialect
    ids = await service.encode(
        written.text, as_chat=True, param="messages", how=lambda: dialect.ids(written)
    )
    return written, ids


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
