"""POST /v1/chat/completions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp

from halfbyte.errors import HalfbyteError
from halfbyte.server.body import read_body
from halfbyte.server.chat_choice import ChatChoice
from halfbyte.server.errors import bad_request
from halfbyte.server.failures import stream_error
from halfbyte.server.generation import Generation
from halfbyte.server.prompting import template_messages, template_tools
from halfbyte.server.sampling import sampling_params
from halfbyte.server.schema.chat import ChatBody
from halfbyte.server.service import Service, answer_json, note, now, request_id, service_of
from halfbyte.server.sse import DONE, EventStream, event
from halfbyte.server.structured import chat_constraint


async def chat_completions(request: Request) -> ASGIApp:
    """Answer a conversation."""
    service = service_of(request)
    body = await read_body(request, ChatBody, service.options)
    service.check_model(body.model)
    constraint = chat_constraint(body)
    await service.prepare(constraint)
    prompt = await _prompt(service, body)
    params = sampling_params(
        body,
        max_tokens=_max_tokens(service, body),
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        structured_outputs=constraint,
    )
    generation = Generation(
        service, body, [prompt], params, choices=body.n or 1, request_id=request_id(request)
    )
    answer = _Answer(request, service, body, generation)
    if body.stream:
        return EventStream(answer.events(), answer.close)
    return await answer_json(request, answer.whole(), answer.close)


class _Answer:
    """One generation in OpenAI's objects, whole or as events."""

    def __init__(
        self, request: Request, service: Service, body: ChatBody, generation: Generation
    ) -> None:
        self._request = request
        self._body = body
        self._generation = generation
        self._choices = [ChatChoice(service, body, i) for i in range(body.n or 1)]
        self._head: dict[str, Any] = {
            "id": f"chatcmpl-{request_id(request)}",
            "object": "chat.completion.chunk" if body.stream else "chat.completion",
            "created": now(),
            "model": service.options.model_name,
        }

    def close(self) -> None:
        """Cancel what still runs and tell the log."""
        self._generation.cancel()
        note(self._request, cascade=self._generation.cascade, **self._generation.usage())

    async def whole(self) -> dict[str, Any]:
        """A chat.completion."""
        async for part in self._generation.parts():
            self._choices[part.index].take(part.chunk, self._generation.cascade)
        choices = [choice.whole() for choice in self._choices]
        return self._head | {"choices": choices, "usage": self._generation.usage()}

    async def events(self) -> AsyncIterator[bytes]:
        """chat.completion.chunk objects, the usage if asked for, and the end mark."""
        options = self._body.stream_options
        running = options is not None and options.continuous_usage_stats
        try:
            for choice in self._choices:
                yield self._event(choice.opening(), usage=running)
            async for part in self._generation.parts():
                choice = self._choices[part.index]
                for delta in choice.take(part.chunk, self._generation.cascade):
                    yield self._event(delta, usage=running)
        except Exception as error:  # the status is sent: an event is the only way left to say it
            yield event(stream_error(error).body())
            return
        if options is not None and options.include_usage:
            yield event(self._head | {"choices": [], "usage": self._generation.usage()})
        yield DONE

    def _event(self, choice: dict[str, Any], *, usage: bool) -> bytes:
        values = self._head | {"choices": [choice]}
        return event(values | {"usage": self._generation.usage()} if usage else values)


async def _prompt(service: Service, body: ChatBody) -> list[int]:
    messages = template_messages(body.messages)
    tools = template_tools(body.tools) if body.tool_choice != "none" else None
    return await render_chat(service, messages, tools, body.chat_template_kwargs)


async def render_chat(
    service: Service,
    messages: list[dict[str, Any]],
    tools: list[dict[str, Any]] | None,
    variables: dict[str, Any] | None = None,
) -> list[int]:
    """Token ids of a conversation; ApiError 400 where the template refuses it."""
    try:
        template = service.model.template
    except HalfbyteError as error:
        raise bad_request(str(error), param="messages") from error
    if tools and not template.supports_tools:
        raise bad_request(
            "tools: the chat template of this model does not know tools; leave them out",
            param="tools",
        )
    try:
        # Another process renders: the loop must not wait for it.
        text = await asyncio.to_thread(template.render, messages, tools=tools, variables=variables)
    except HalfbyteError as error:
        raise bad_request(str(error), param="messages") from error
    return await service.encode(text, as_chat=True)


def _max_tokens(service: Service, body: ChatBody) -> int:
    """What was asked for, at most what this server allows; the context is the engine's to hold."""
    asked = body.max_completion_tokens or body.max_tokens or service.model.context
    return min(asked, service.options.max_tokens or asked)
