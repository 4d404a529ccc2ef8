"""POST /v1/chat/completions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp

from halfbyte.errors import HalfbyteError
from halfbyte.server.answer import Answer, answer_head
from halfbyte.server.body import body_bytes, read_body
from halfbyte.server.chat_choice import ChatChoice
from halfbyte.server.errors import api_error, bad_request
from halfbyte.server.generation import Generation
from halfbyte.server.log import log
from halfbyte.server.prompting import ignored_fields, template_messages, template_tools
from halfbyte.server.sampling import sampling_params
from halfbyte.server.schema.chat import ChatBody, Message, Tool
from halfbyte.server.service import Service, request_id, service_of
from halfbyte.server.structured import chat_constraint


async def chat_completions(request: Request) -> ASGIApp:
    """Answer a conversation."""
    service = service_of(request)
    body = await read_body(request, ChatBody, service)
    service.check_model(body.model)
    constraint = await service.aside(body_bytes(request), lambda: chat_constraint(body))
    await service.prepare(constraint)
    prompt = await _prompt(request, service, body)
    params = sampling_params(
        body,
        max_tokens=_max_tokens(service, body),
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        structured_outputs=constraint,
    )
    generation = Generation(
        service, body, [prompt], params, choices=body.n or 1, request_id=request_id(request)
    )
    kind = "chat.completion.chunk" if body.stream else "chat.completion"
    head = answer_head(service, f"chatcmpl-{request_id(request)}", kind)
    answer = Answer(request, generation, head, body.stream_options)
    return await answer.given(_Choices(service, body, generation), stream=bool(body.stream))


class _Choices:
    """The choices of one generation, whole or as they grow."""

    def __init__(self, service: Service, body: ChatBody, generation: Generation) -> None:
        self._generation = generation
        self._choices = [ChatChoice(service, body, i) for i in range(body.n or 1)]

    async def whole(self) -> list[dict[str, Any]]:
        """Those of a chat.completion."""
        async for part in self._generation.parts():
            self._choices[part.index].take(part.chunk, self._generation.cascade)
        return [choice.whole() for choice in self._choices]

    async def growing(self) -> AsyncIterator[dict[str, Any]]:
        """Those of chat.completion.chunk objects."""
        for choice in self._choices:
            yield choice.opening()
        async for part in self._generation.parts():
            for delta in self._choices[part.index].take(part.chunk, self._generation.cascade):
                yield delta


async def _prompt(request: Request, service: Service, body: ChatBody) -> list[int]:
    tools = body.tools if body.tool_choice != "none" else None
    variables = body.chat_template_kwargs
    ids = await render_chat(request, service, body.messages, tools, variables)
    service.check_length(ids, param="messages")
    return ids


async def render_chat(
    request: Request,
    service: Service,
    messages: Sequence[Message],
    tools: Sequence[Tool] | None,
    variables: dict[str, Any] | None = None,
) -> list[int]:
    """Token ids of a conversation; ApiError 400 where the template refuses it."""

    def render() -> tuple[str, list[str]]:
        template = service.model.template  # its process may have to be started
        if tools and not template.supports_tools:
            raise bad_request(
                "tools: the chat template of this model does not know tools; leave them out",
                param="tools",
            )
        given, offered = template_messages(messages), template_tools(tools)
        return template.render(given, tools=offered, variables=variables), ignored_fields(messages)

    try:
        # Another process renders: the loop must not wait for it.
        async with service.rendering:
            text, ignored = await asyncio.to_thread(render)
    except HalfbyteError as error:
        raise api_error(error, param="messages") from error
    if ignored:
        log("ignored", id=request_id(request), fields=ignored)
    return await service.encode(text, as_chat=True, param="messages")


def _max_tokens(service: Service, body: ChatBody) -> int:
    """What was asked for, at most what this server allows; the context is the engine's to hold."""
    asked = body.max_completion_tokens or body.max_tokens or service.model.context
    return min(asked, service.options.max_tokens or asked)
