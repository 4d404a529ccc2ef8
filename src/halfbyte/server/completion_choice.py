"""One choice of /v1/completions as it grows: text, logprobs, fates."""

from __future__ import annotations

from typing import Any

from halfbyte.api.results import Chunk, Completion
from halfbyte.server.logprobs import CompletionLogprobs
from halfbyte.server.schema.completion import CompletionBody
from halfbyte.server.service import Service
from halfbyte.server.speculation import Speculation
from halfbyte.text.codec import TextCodec

_LISTS = ("tokens", "token_logprobs", "top_logprobs", "text_offset")


class CompletionChoice:
    """Takes chunks; gives events for a stream, or the whole at the end."""

    def __init__(
        self,
        service: Service,
        body: CompletionBody,
        given: str | list[int],
        prompt: list[int],
        index: int,
        *,
        constrained: bool,
    ) -> None:
        """`prompt`: the tokens of what was `given`."""
        self._codec = service.model.codec if service.model.has_text else None
        self._given = given
        self._echo = _echo(self._codec, given) if body.echo else ""
        self._wants_logprobs = body.logprobs is not None
        self._wants_fates = bool(body.return_fates)
        self._index = index
        self._text = [self._echo]
        self._writer = CompletionLogprobs(
            self._codec, prompt, offset=len(self._echo), within=constrained
        )
        self._logprobs: dict[str, Any] = {name: [] for name in _LISTS}
        self._speculation = Speculation()
        self._finish_reason: str | None = None
        self.cumulative_logprob = 0.0

    def opening(self) -> list[dict[str, Any]]:
        """The first event of a stream that echoes its prompt."""
        return [self._choice(self._echo)] if self._echo else []

    def take(self, chunk: Chunk, cascade: str) -> dict[str, Any]:
        """Add a chunk; returns the choice of its event."""
        self._text.append(chunk.text)
        self.cumulative_logprob += sum(chunk.logprobs)
        choice = self._choice(chunk.text)
        if self._wants_logprobs:
            choice["logprobs"] = self._entries(chunk)
        if self._wants_fates:
            choice["halfbyte"] = self._speculation.take(chunk, cascade)
        if chunk.completion is not None:
            self._finish_reason = chunk.completion.finish_reason
            if self._echo and self._wants_logprobs:
                prompt = self._echo_entries(chunk.completion)
                self._logprobs = {name: prompt[name] + self._logprobs[name] for name in _LISTS}
            choice["finish_reason"] = self._finish_reason
        return choice

    def whole(self) -> dict[str, Any]:
        """The choice of a text_completion."""
        text = "".join(self._text)
        choice = self._choice(text)
        choice["finish_reason"] = self._finish_reason
        if self._wants_logprobs:
            choice["logprobs"] = _within(self._logprobs, text)
        if self._wants_fates:
            choice["halfbyte"] = self._speculation.whole
        return choice

    def _choice(self, text: str) -> dict[str, Any]:
        return {"index": self._index, "text": text, "logprobs": None, "finish_reason": None}

    def _entries(self, chunk: Chunk) -> dict[str, Any]:
        entries = self._writer.entries(chunk.token_ids, chunk.logprobs, chunk.top_logprobs)
        for name in _LISTS:
            self._logprobs[name] += entries[name]
        return _within(entries, "".join(self._text)) if chunk.completion else entries

    def _echo_entries(self, completion: Completion) -> dict[str, Any]:
        """The prompt's own tokens, scored; the first has no logprob."""
        ids, codec = completion.prompt_token_ids, self._codec
        text = self._given if isinstance(self._given, str) else None
        offsets = None if codec is None else codec.offsets(ids, text)
        writer = CompletionLogprobs(codec)
        scores = completion.prompt_logprobs or []
        return writer.entries(ids, scores, completion.prompt_top_logprobs, offsets)


def _echo(codec: TextCodec | None, given: str | list[int]) -> str:
    """The prompt as it was sent; half a character at its end is the answer's."""
    if isinstance(given, str):
        return given
    return "".join(codec.pieces(given)) if codec else ""


def _within(entries: dict[str, Any], text: str) -> dict[str, Any]:
    """A token behind the end, such as one of a stop string, begins at the end."""
    return entries | {"text_offset": [min(at, len(text)) for at in entries["text_offset"]]}
