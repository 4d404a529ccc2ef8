"""One choice of /v1/completions as it grows: text, logprobs, fates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from halfbyte.api.results import Chunk, Completion
from halfbyte.server.logprobs import CompletionLogprobs
from halfbyte.server.schema.completion import CompletionBody
from halfbyte.server.service import Service
from halfbyte.server.speculation import Speculation

_LISTS = ("tokens", "token_logprobs", "top_logprobs", "text_offset")


class CompletionChoice:
    """Takes chunks; gives events for a stream, or the whole at the end."""

    def __init__(
        self, service: Service, body: CompletionBody, prompt: list[int], index: int
    ) -> None:
        self._codec = service.model.codec if service.model.has_text else None
        self._echo = self._codec.decode(prompt) if body.echo and self._codec else ""
        self._wants_logprobs = body.logprobs is not None
        self._wants_fates = bool(body.return_fates)
        self._index = index
        self._text = [self._echo]
        self._writer = CompletionLogprobs(len(self._echo))
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
        choice = self._choice("".join(self._text))
        choice["finish_reason"] = self._finish_reason
        if self._wants_logprobs:
            choice["logprobs"] = self._logprobs
        if self._wants_fates:
            choice["halfbyte"] = self._speculation.whole
        return choice

    def _choice(self, text: str) -> dict[str, Any]:
        return {"index": self._index, "text": text, "logprobs": None, "finish_reason": None}

    def _entries(self, chunk: Chunk) -> dict[str, Any]:
        tops = self._named(chunk.token_ids, chunk.logprobs, chunk.top_logprobs)
        texts = [self._name(token) for token in chunk.token_ids]
        return self._keep(self._writer.entries(texts, chunk.pieces, chunk.logprobs, tops))

    def _echo_entries(self, completion: Completion) -> dict[str, Any]:
        """The prompt's own tokens, scored; the first has no logprob."""
        ids, scores = completion.prompt_token_ids, completion.prompt_logprobs or []
        texts = [self._name(token) for token in ids]
        tops = self._named(ids, scores, completion.prompt_top_logprobs)
        pieces = [self._codec.decode([token]) if self._codec else "" for token in ids]
        return CompletionLogprobs().entries(texts, pieces, scores, tops)

    def _named(
        self,
        ids: Sequence[int],
        logprobs: Sequence[float | None],
        tops: Sequence[Sequence[tuple[int, float]] | None] | None,
    ) -> list[list[tuple[str, float]] | None]:
        """Likeliest tokens by their text, the token itself among them."""
        found: list[list[tuple[str, float]] | None] = []
        for token, logprob, top in zip(ids, logprobs, tops or [[]] * len(ids), strict=True):
            if logprob is None or top is None:
                found.append(None)
                continue
            named = {self._name(t): x for t, x in top}
            named.setdefault(self._name(token), logprob)
            found.append(list(named.items()))
        return found

    def _name(self, token: int) -> str:
        return self._codec.token_text(token) if self._codec else str(token)

    def _keep(self, entries: dict[str, Any]) -> dict[str, Any]:
        for name in _LISTS:
            self._logprobs[name] += entries[name]
        return entries
