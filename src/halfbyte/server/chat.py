"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp

from halfbyte.sampling.params import Thinking
from halfbyte.server.answer import Answer, answer_head
from halfbyte.server.body import body_bytes, read_body
from halfbyte.server.chat_choice import ChatChoice
from halfbyte.server.generation import Generation
from halfbyte.server.prompting import Conversation, write_chat
from halfbyte.server.sampling import sampling_params
from halfbyte.server.schema.chat import ChatBody
from halfbyte.server.service import Service, request_id, service_of
from halfbyte.server.structured import chat_constraint, chat_field
from halfbyte.text.calls.call import Call
from halfbyte.text.calls.reader import Style
from halfbyte.text.dialect import Wanted, Written


async def chat_completions(request: Request) -> ASGIApp:
    """Answer a conversation."""
    service = service_of(request)
    body = await read_body(request, ChatBody, service)
    service.check_model(body.model)
    constraint = await service.aside(body_bytes(request), lambda: chat_constraint(body))
    await service.prepare(constraint, chat_field(body))
    conversation = Conversation.of_chat(body)
    written, prompt = await write_chat(request, service, conversation)
    service.check_length(prompt, param="messages")
    wanted, dialect = _wanted(body, conversation), service.model.dialect
    style = dialect.style(wanted)
    params = sampling_params(
        body,
        max_tokens=_max_tokens(service, body),
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        structured_outputs=constraint,
        thinking=_thinking(style, written, body.thinking_token_budget),
        shown_token_ids=dialect.shown_ids(style),
    )
    generation = await Generation.submitted(
        service, body, [prompt], params, choices=body.n or 1, request_id=request_id(request)
    )
    kind = "chat.completion.chunk" if body.stream else "chat.completion"
    head = answer_head(service, f"chatcmpl-{request_id(request)}", kind)
    answer = Answer(request, generation, head, body.stream_options)
    earlier = sum(len(getattr(message, "tool_calls", None) or ()) for message in body.messages)

    def new_id(call: Call, index: int) -> str:
        return call.id or dialect.profile.replay.new_id(call.name, earlier + index)

    choices = [
        ChatChoice(service, body, i, dialect.reader(wanted, thinks=written.thinks), new_id)
        for i in range(body.n or 1)
    ]
    return await answer.given(_Choices(choices, generation), stream=bool(body.stream))


class _Choices:
    """The choices of one generation, whole or as they grow."""

    def __init__(self, choices: list[ChatChoice], generation: Generation) -> None:
        self._generation = generation
        self._choices = choices

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


def _wanted(body: ChatBody, conversation: Conversation) -> Wanted:
    return Wanted(
        tools=conversation.tools,
        forced=body.tool_choice not in (None, "auto", "none"),
        parallel=body.parallel_tool_calls is not False,
    )


def _thinking(style: Style, written: Written, budget: int | None) -> Thinking | None:
    """How the answer reasons, where its template knows tags for that."""
    tags = style.reasoning
    if tags is None:
        return None
    return Thinking(tags.open, tags.close, opened=written.thinks, budget=budget)


def _max_tokens(service: Service, body: ChatBody) -> int:
    """What was asked for, at most what this server allows; the context is the engine's to hold."""
    asked = body.max_completion_tokens or body.max_tokens or service.model.context
    return min(asked, service.options.max_tokens or asked)
