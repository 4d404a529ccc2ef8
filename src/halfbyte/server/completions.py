"""POST /v1/completions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp

from halfbyte.server.body import read_body
from halfbyte.server.completion_choice import CompletionChoice
from halfbyte.server.errors import bad_request
from halfbyte.server.failures import stream_error
from halfbyte.server.generation import Generation
from halfbyte.server.sampling import sampling_params
from halfbyte.server.schema.completion import CompletionBody
from halfbyte.server.service import Service, answer_json, note, now, request_id, service_of
from halfbyte.server.sse import DONE, EventStream, event
from halfbyte.server.structured import text_constraint


async def completions(request: Request) -> ASGIApp:
    """Continue a prompt, or several."""
    service = service_of(request)
    body = await read_body(request, CompletionBody, service.options)
    service.check_model(body.model)
    _check(body)
    prompts = [await _ids(service, prompt) for prompt in _prompts(body)]
    asked = body.max_tokens or 16
    constraint = text_constraint(body.response_format, body.structured_outputs)
    await service.prepare(constraint)
    params = sampling_params(
        body,
        max_tokens=min(asked, service.options.max_tokens or asked),
        logprobs=body.logprobs,
        prompt_logprobs=body.logprobs if body.echo else None,
        structured_outputs=constraint,
    )
    drawn = max(body.best_of or 0, body.n or 1)
    generation = Generation(
        service, body, prompts, params, choices=drawn, request_id=request_id(request)
    )
    answer = _Answer(request, service, body, generation, prompts, drawn)
    if body.stream:
        return EventStream(answer.events(), answer.close)
    return await answer_json(request, answer.whole(), answer.close)


class _Answer:
    """One generation in OpenAI's objects, whole or as events."""

    def __init__(
        self,
        request: Request,
        service: Service,
        body: CompletionBody,
        generation: Generation,
        prompts: list[list[int]],
        drawn: int,
    ) -> None:
        self._request = request
        self._body = body
        self._generation = generation
        self._drawn = drawn  # choices of each prompt, of which the best `n` are told
        self._choices = [
            CompletionChoice(service, body, prompt, i * drawn + k)
            for i, prompt in enumerate(prompts)
            for k in range(drawn)
        ]
        self._head: dict[str, Any] = {
            "id": f"cmpl-{request_id(request)}",
            "object": "text_completion",
            "created": now(),
            "model": service.options.model_name,
        }

    def close(self) -> None:
        """Cancel what still runs and tell the log."""
        self._generation.cancel()
        note(self._request, cascade=self._generation.cascade, **self._generation.usage())

    async def whole(self) -> dict[str, Any]:
        """A text_completion."""
        async for part in self._generation.parts():
            self._choices[part.index].take(part.chunk, self._generation.cascade)
        kept: list[dict[str, Any]] = []
        for first in range(0, len(self._choices), self._drawn):
            group = self._choices[first : first + self._drawn]
            if self._drawn > (self._body.n or 1):
                group = sorted(group, key=lambda c: -c.cumulative_logprob)
            kept += [choice.whole() for choice in group[: self._body.n or 1]]
        for index, choice in enumerate(kept):
            choice["index"] = index
        return self._head | {"choices": kept, "usage": self._generation.usage()}

    async def events(self) -> AsyncIterator[bytes]:
        """text_completion objects, the usage if asked for, and the end mark."""
        options = self._body.stream_options
        running = options is not None and options.continuous_usage_stats
        try:
            for choice in self._choices:
                for opening in choice.opening():
                    yield self._event(opening, usage=running)
            async for part in self._generation.parts():
                choice = self._choices[part.index]
                yield self._event(choice.take(part.chunk, self._generation.cascade), usage=running)
        except Exception as error:  # the status is sent: an event is the only way left to say it
            yield event(stream_error(error).body())
            return
        if options is not None and options.include_usage:
            yield event(self._head | {"choices": [], "usage": self._generation.usage()})
        yield DONE

    def _event(self, choice: dict[str, Any], *, usage: bool) -> bytes:
        values = self._head | {"choices": [choice]}
        return event(values | {"usage": self._generation.usage()} if usage else values)


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
    return await service.encode(prompt, as_chat=False) if isinstance(prompt, str) else prompt
