"""POST /v1/completions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp

from halfbyte.server.answer import Answer, answer_head
from halfbyte.server.body import body_bytes, read_body
from halfbyte.server.completion_choice import CompletionChoice
from halfbyte.server.errors import bad_request
from halfbyte.server.generation import Generation
from halfbyte.server.sampling import sampling_params
from halfbyte.server.schema.completion import CompletionBody
from halfbyte.server.service import Service, request_id, service_of
from halfbyte.server.structured import text_constraint, text_field


async def completions(request: Request) -> ASGIApp:
    """Continue a prompt, or several."""
    service = service_of(request)
    body = await read_body(request, CompletionBody, service)
    service.check_model(body.model)
    _check(body)
    given = _prompts(body)
    prompts = [await _ids(service, prompt) for prompt in given]
    asked = body.max_tokens or 16
    wanted = body.response_format, body.structured_outputs
    constraint = await service.aside(body_bytes(request), lambda: text_constraint(*wanted))
    await service.prepare(constraint, text_field(body.response_format))
    params = sampling_params(
        body,
        max_tokens=min(asked, service.options.max_tokens or asked),
        logprobs=body.logprobs,
        prompt_logprobs=body.logprobs if body.echo else None,
        structured_outputs=constraint,
    )
    drawn = max(body.best_of or 0, body.n or 1)
    generation = await Generation.submitted(
        service, body, prompts, params, choices=drawn, request_id=request_id(request)
    )
    head = answer_head(service, f"cmpl-{request_id(request)}", "text_completion")
    answer = Answer(request, generation, head, body.stream_options)
    asked_for = list(zip(given, prompts, strict=True))
    constrained = constraint is not None
    choices = _Choices(service, body, generation, asked_for, drawn, constrained=constrained)
    return await answer.given(choices, stream=bool(body.stream))


class _Choices:
    """The choices of one generation, whole or as they grow."""

    def __init__(
        self,
        service: Service,
        body: CompletionBody,
        generation: Generation,
        prompts: list[tuple[str | list[int], list[int]]],
        drawn: int,
        *,
        constrained: bool,
    ) -> None:
        self._told = body.n or 1
        self._generation = generation
        self._drawn = drawn  # choices of each prompt, of which the best `n` are told
        self._choices = [
            CompletionChoice(service, body, given, prompt, i * drawn + k, constrained=constrained)
            for i, (given, prompt) in enumerate(prompts)
            for k in range(drawn)
        ]

    async def whole(self) -> list[dict[str, Any]]:
        """Those of a text_completion."""
        async for part in self._generation.parts():
            self._choices[part.index].take(part.chunk, self._generation.cascade)
        kept: list[dict[str, Any]] = []
        for first in range(0, len(self._choices), self._drawn):
            group = self._choices[first : first + self._drawn]
            if self._drawn > self._told:
                group = sorted(group, key=lambda c: -c.cumulative_logprob)
            kept += [choice.whole() for choice in group[: self._told]]
        for index, choice in enumerate(kept):
            choice["index"] = index
        return kept

    async def growing(self) -> AsyncIterator[dict[str, Any]]:
        """Those of a stream's objects."""
        for choice in self._choices:
            for opening in choice.opening():
                yield opening
        async for part in self._generation.parts():
            yield self._choices[part.index].take(part.chunk, self._generation.cascade)


def _check(body: CompletionBody) -> None:
    n, best_of = body.n or 1, body.best_of
    if best_of is not None and best_of < n:
        raise bad_request(f"best_of: got {best_of}, expected at least n = {n}", param="best_of")
    if best_of is not None and best_of > n and body.stream:
        raise bad_request("best_of cannot be streamed; use n, or stream false", param="best_of")
    if body.echo and body.logprobs is not None and body.stream:
        raise bad_request("echo with logprobs cannot be streamed; use stream false", param="echo")


def _prompts(body: CompletionBody) -> list[str | list[int]]:
    prompt = body.prompt
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt[0], int):
        return [prompt]
    return list(prompt)


async def _ids(service: Service, prompt: str | list[int]) -> list[int]:
    ids = await service.encode(prompt, as_chat=False) if isinstance(prompt, str) else prompt
    service.check_length(ids)
    return ids
