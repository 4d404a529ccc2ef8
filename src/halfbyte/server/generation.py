"""The streams of one request: each prompt times `n`, submitted together, cancelled together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

from halfbyte.api.results import Chunk
from halfbyte.api.stream import RequestStream
from halfbyte.errors import HalfbyteError
from halfbyte.sampling.params import SamplingParams
from halfbyte.server.errors import ApiError, api_error, bad_request
from halfbyte.server.schema.sampling import SamplingBody
from halfbyte.server.service import Service

_Item = tuple[int, Chunk | BaseException | None]


@dataclass(frozen=True, slots=True)
class Part:
    """What a choice got: `index` counts choices over all prompts."""

    index: int
    chunk: Chunk


class Generation:
    """What was submitted for one request."""

    def __init__(self, service: Service, body: SamplingBody, *, choices: int) -> None:
        self.cascade = body.cascade or str(service.engine.llm.cascade)
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.cached_tokens = 0  # of the prompts; a prompt's further choices share its pages anyway
        self._choices = choices
        self._streams: list[RequestStream] = []

    @classmethod
    async def submitted(
        cls,
        service: Service,
        body: SamplingBody,
        prompts: Sequence[list[int]],
        params: SamplingParams,
        *,
        choices: int,
        request_id: str,
    ) -> Generation:
        """Submit every choice of every prompt; ApiError 400, 429 or 503 leaves nothing behind."""
        self = cls(service, body, choices=choices)
        deadline = monotonic() + service.options.request_timeout
        try:
            for i, prompt in enumerate(prompts):
                self.prompt_tokens += len(prompt)
                for k in range(choices):
                    stream = service.engine.submit(
                        prompt,
                        _of_choice(params, k),
                        cascade=body.cascade,
                        priority=body.priority or 0,
                        deadline=deadline,
                        request_id=f"{request_id}-{i * choices + k}",
                    )
                    self._streams.append(stream)
                    await asyncio.sleep(
                        0
                    )  # a long prompt takes milliseconds, and may be one of many
        except HalfbyteError as error:
            self.cancel()
            raise api_error(error) from error
        except BaseException:
            self.cancel()
            raise
        return self

    def cancel(self) -> None:
        """End what still runs; safe to call at any time and twice."""
        for stream in self._streams:
            stream.cancel()

    def usage(self) -> dict[str, Any]:
        """Tokens so far, in OpenAI's names; those found in the cache once a choice has ended."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }

    async def parts(self) -> AsyncIterator[Part]:
        """Every chunk of every choice; ApiError where one ends before its time."""
        async for index, chunk in _merge(self._streams):
            self.completion_tokens += len(chunk.token_ids)
            if chunk.completion is not None:
                if index % self._choices == 0:
                    self.cached_tokens += chunk.completion.cached_tokens
                _check_end(chunk.completion.finish_reason)
            yield Part(index, chunk)


def _of_choice(params: SamplingParams, index: int) -> SamplingParams:
    """Choices of one prompt draw different noise; the first is what n = 1 would give."""
    if index == 0 or params.seed is None:
        return params
    return replace(params, seed=(params.seed + index) % 2**64)


def _check_end(reason: str) -> None:
    if reason == "deadline":
        raise ApiError(
            408,
            "the answer was not complete in the time this server allows; ask for fewer tokens",
            kind="timeout_error",
            code="deadline",
        )
    if reason == "grammar":
        raise bad_request(
            "the constraint on the text could not be followed further within this server's limits; "
            "make it smaller",
            code="constraint_limit",
        )
    if reason == "cancelled":
        raise ApiError(503, "the server is shutting down", kind="server_error", code="cancelled")


async def _merge(streams: Sequence[RequestStream]) -> AsyncIterator[tuple[int, Chunk]]:
    if len(streams) == 1:
        async for chunk in streams[0]:
            yield 0, chunk
        return
    # Every task puts one last item, None or what its stream raised: the loop below ends.
    arrived: asyncio.Queue[_Item] = asyncio.Queue()
    tasks = [asyncio.create_task(_pump(i, s, arrived)) for i, s in enumerate(streams)]
    try:
        still_open = len(tasks)
        while still_open:
            index, item = await arrived.get()
            if item is None:
                still_open -= 1
            elif isinstance(item, BaseException):
                raise item
            else:
                yield index, item
    finally:
        for task in tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(index: int, stream: RequestStream, arrived: asyncio.Queue[_Item]) -> None:
    try:
        async for chunk in stream:
            arrived.put_nowait((index, chunk))
        arrived.put_nowait((index, None))
    except Exception as error:
        arrived.put_nowait((index, error))


def statistics(cascade: str, chunk: Chunk) -> dict[str, Any]:
    """How a finished choice came about."""
    assert chunk.completion is not None
    s = chunk.completion.statistics
    return {
        "cascade": cascade,
        "tau": s.tau,
        "alpha": s.alpha,
        "proposed_by_position": s.proposed_by_position,
        "accepted_by_position": s.accepted_by_position,
        "tokens_per_second": s.tokens_per_second,
        "prefill_seconds": s.prefill_seconds,
    }
