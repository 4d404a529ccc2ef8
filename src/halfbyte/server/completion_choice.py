"""One choice of /v1/completions as it grows: text, logprobs, fates."""

from __future__ import annotations

from typing import Any

from halfbyte.results import Chunk
from halfbyte.server.generation import statistics
from halfbyte.server.logprobs import CompletionLogprobs
from halfbyte.server.schema.completion import CompletionBody
from halfbyte.server.service import Service

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
        self._writer = CompletionLogprobs()
        self._logprobs: dict[str, Any] = {name: [] for name in _LISTS}
        self._speculation: dict[str, Any] = {"pieces": [], "fates": []}
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
            choice["halfbyte"] = self._fates(chunk, cascade)
        if chunk.completion is not None:
            self._finish_reason = chunk.completion.finish_reason
            choice["finish_reason"] = self._finish_reason
        return choice

    def whole(self) -> dict[str, Any]:
        """The choice of a text_completion."""
        choice = self._choice("".join(self._text))
        choice["finish_reason"] = self._finish_reason
        if self._wants_logprobs:
            choice["logprobs"] = self._logprobs
        if self._wants_fates:
            choice["halfbyte"] = self._speculation
        return choice

    def _choice(self, text: str) -> dict[str, Any]:
        return {"index": self._index, "text": text, "logprobs": None, "finish_reason": None}

    def _entries(self, chunk: Chunk) -> dict[str, Any]:
        texts = [self._codec.token_text(t) if self._codec else str(t) for t in chunk.token_ids]
        tops: list[list[tuple[str, float]]] = [
            [(text, logprob)] for text, logprob in zip(texts, chunk.logprobs, strict=True)
        ]
        entries = self._writer.entries(texts, chunk.pieces, chunk.logprobs, tops)
        for name in _LISTS:
            self._logprobs[name] += entries[name]
        return entries

    def _fates(self, chunk: Chunk, cascade: str) -> dict[str, Any]:
        fates = [str(fate) for fate in chunk.fates]
        told: dict[str, Any] = {"pieces": chunk.pieces, "fates": fates}
        if chunk.completion is not None:
            told["statistics"] = statistics(cascade, chunk)
            self._speculation["statistics"] = told["statistics"]
        self._speculation["pieces"] += chunk.pieces
        self._speculation["fates"] += fates
        return told
