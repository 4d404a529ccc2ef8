"""What both completion endpoints answer with: head, usage, end, the frame of a stream."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

from starlette.requests import Request
from starlette.types import ASGIApp

from halfbyte.server.failures import stream_error
from halfbyte.server.generation import Generation
from halfbyte.server.schema.sampling import StreamOptions
from halfbyte.server.service import Service, answer_json, note, now
from halfbyte.server.sse import DONE, EventStream, event


class Choices(Protocol):
    """The choices of a generation."""

    async def whole(self) -> list[dict[str, Any]]:
        """All of them, finished."""

    def growing(self) -> AsyncIterator[dict[str, Any]]:
        """Those of a stream's objects, as they come."""


def answer_head(service: Service, name: str, kind: str) -> dict[str, Any]:
    """What every object of an answer begins with."""
    return {"id": name, "object": kind, "created": now(), "model": service.options.model_name}


class Answer:
    """One generation under one head: OpenAI's objects, whole or as events."""

    def __init__(
        self,
        request: Request,
        generation: Generation,
        head: dict[str, Any],
        options: StreamOptions | None,
    ) -> None:
        self._request = request
        self._generation = generation
        self._head = head
        self._options = options

    async def given(self, choices: Choices, *, stream: bool) -> ASGIApp:
        """The response."""
        if stream:
            return EventStream(self._events(choices), self._close)
        return await answer_json(self._request, self._whole(choices), self._close)

    def _close(self) -> None:
        """Cancel what still runs and tell the log."""
        self._generation.cancel()
        told = self._generation.usage()
        told |= told.pop("prompt_tokens_details")
        note(self._request, cascade=self._generation.cascade, **told)

    async def _whole(self, choices: Choices) -> dict[str, Any]:
        found = await choices.whole()
        return self._head | {"choices": found, "usage": self._generation.usage()}

    async def _events(self, choices: Choices) -> AsyncIterator[bytes]:
        """An object per choice, the usage if asked for, and the end mark."""
        options = self._options
        running = options is not None and options.continuous_usage_stats
        try:
            async for choice in choices.growing():
                values = self._head | {"choices": [choice]}
                yield event(values | {"usage": self._generation.usage()} if running else values)
        except Exception as error:  # the status is sent: an event is the only way left to say it
            yield event(stream_error(error).body())
            return
        if options is not None and options.include_usage:
            yield event(self._head | {"choices": [], "usage": self._generation.usage()})
        yield DONE
