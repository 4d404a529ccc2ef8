"""One choice of a chat answer as it grows: content, tool calls, logprobs, fates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from halfbyte.api.results import Chunk
from halfbyte.server.logprobs import chat_entry
from halfbyte.server.schema.chat import ChatBody
from halfbyte.server.service import Service
from halfbyte.server.speculation import Speculation
from halfbyte.text.calls.call import Call
from halfbyte.text.calls.reader import AnswerReader, Found


class ChatChoice:
    """Takes chunks; gives deltas for a stream, or the whole at the end."""

    def __init__(
        self,
        service: Service,
        body: ChatBody,
        index: int,
        reader: AnswerReader | None,
        ids: Callable[[Call, int], str],
    ) -> None:
        """`reader` None: all of the answer is content. `ids`: of a call, by its number here."""
        self._codec = service.model.codec
        self._wants_logprobs = bool(body.logprobs)
        self._wants_fates = bool(body.return_fates)
        self._index = index
        self._reader = reader
        self._ids = ids
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[dict[str, Any]] = []
        self._logprobs: list[dict[str, Any]] = []
        self._speculation = Speculation()
        self._finish_reason: str | None = None

    def opening(self) -> dict[str, Any]:
        """The first delta of a stream."""
        return self._delta({"role": "assistant", "content": ""})

    def take(self, chunk: Chunk, cascade: str) -> list[dict[str, Any]]:
        """Add a chunk; returns the choices of the events it makes."""
        found = self._read(chunk)
        self._content.append(found.content)
        self._reasoning.append(found.reasoning)
        parts = {"reasoning_content": found.reasoning, "content": found.content}
        delta: dict[str, Any] = {name: text for name, text in parts.items() if text}
        made = [self._call(call) for call in found.calls]
        if made:
            delta["tool_calls"] = made
        choice = self._delta(delta)
        if self._wants_logprobs:
            choice["logprobs"] = {"content": self._entries(chunk)}
        if self._wants_fates:
            choice["halfbyte"] = self._speculation.take(chunk, cascade)
        if chunk.completion is not None:
            reason = chunk.completion.finish_reason
            self._finish_reason = "tool_calls" if self._calls else reason
            choice["finish_reason"] = self._finish_reason
        silent = not delta and choice["finish_reason"] is None
        return [] if silent and not (self._wants_logprobs or self._wants_fates) else [choice]

    def whole(self) -> dict[str, Any]:
        """The choice of a chat.completion."""
        content = "".join(self._content)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": content if content or not self._calls else None,
            "refusal": None,
        }
        if reasoning := "".join(self._reasoning):
            message["reasoning_content"] = reasoning
        if self._calls:
            message["tool_calls"] = [
                {k: v for k, v in call.items() if k != "index"} for call in self._calls
            ]
        choice: dict[str, Any] = {
            "index": self._index,
            "message": message,
            "logprobs": {"content": self._logprobs} if self._wants_logprobs else None,
            "finish_reason": self._finish_reason,
        }
        if self._wants_fates:
            choice["halfbyte"] = self._speculation.whole
        return choice

    def _read(self, chunk: Chunk) -> Found:
        if self._reader is None:
            return Found(content=chunk.text)
        found = self._reader.add(chunk.text)
        return found if chunk.completion is None else found + self._reader.finish()

    def _delta(self, delta: dict[str, Any]) -> dict[str, Any]:
        return {"index": self._index, "delta": delta, "logprobs": None, "finish_reason": None}

    def _call(self, call: Call) -> dict[str, Any]:
        made = {
            "index": len(self._calls),
            "id": self._ids(call, len(self._calls)),
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        self._calls.append(made)
        return made

    def _entries(self, chunk: Chunk) -> list[dict[str, Any]]:
        entries = []
        tops = chunk.top_logprobs or [[] for _ in chunk.token_ids]
        for token, logprob, top in zip(chunk.token_ids, chunk.logprobs, tops, strict=True):
            entries.append(chat_entry(self._codec, token, logprob, top))
        self._logprobs += entries
        return entries
