"""Finds tool calls in a growing answer. Which form a model writes is read from its template."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Protocol

OPEN, CLOSE = "<tool_call>", "</tool_call>"
MAX_CALL_CHARS = 1 << 18


@dataclass(frozen=True, slots=True)
class Call:
    """One call: a name and a JSON object as text."""

    name: str
    arguments: str


class CallReader(Protocol):
    """Reads an answer piece by piece."""

    def add(self, text: str) -> tuple[str, list[Call]]:
        """The part that is certainly content, and the calls completed by it."""

    def finish(self) -> tuple[str, list[Call]]:
        """What was held back, once the answer has ended."""


def reader_for(template: str, *, forced: bool) -> CallReader:
    """`forced`: the answer is one JSON call and nothing else."""
    return TaggedCalls() if OPEN in template and not forced else BareCalls()


class TaggedCalls:
    """`<tool_call>{"name": …, "arguments": …}</tool_call>` amid text (Qwen, Hermes)."""

    def __init__(self) -> None:
        self._held = ""
        self._inside = False

    def add(self, text: str) -> tuple[str, list[Call]]:
        """See `CallReader`."""
        self._held += text
        content, calls = "", []
        while True:
            tag = CLOSE if self._inside else OPEN
            before, found, after = self._held.partition(tag)
            if not found:
                break
            self._held = after.lstrip("\n") if self._inside else after
            if self._inside:
                parsed = parse_calls(before)
                calls += parsed
                content += "" if parsed else OPEN + before + CLOSE
            else:
                content += before.rstrip("\n") if not content else before
            self._inside = not self._inside
        if not self._inside:
            keep = _overlap(self._held, OPEN)
            content += self._held[: len(self._held) - keep]
            self._held = self._held[len(self._held) - keep :]
        return content, calls

    def finish(self) -> tuple[str, list[Call]]:
        """An unfinished call that parses counts; anything else is content."""
        held, self._held = self._held, ""
        if not self._inside:
            return held, []
        calls = parse_calls(held)
        return ("", calls) if calls else (OPEN + held, [])


class BareCalls:
    """The whole answer is a JSON object, or a list of them (Llama 3, Mistral, a forced call)."""

    def __init__(self) -> None:
        self._held = ""
        self._is_text = False

    def add(self, text: str) -> tuple[str, list[Call]]:
        """See `CallReader`."""
        self._held += text
        start = self._held.lstrip()[:1]
        if self._is_text or (start and start not in "{["):
            self._is_text = True
            held, self._held = self._held, ""
            return held, []
        return "", []

    def finish(self) -> tuple[str, list[Call]]:
        """The calls, or the text where it is no call."""
        held, self._held = self._held, ""
        calls = parse_calls(held)
        return ("", calls) if calls else (held, [])


def parse_calls(text: str) -> list[Call]:
    """Calls in a JSON text; empty where it is none."""
    if len(text) > MAX_CALL_CHARS:
        return []
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return []
    found = [_call(value) for value in (values if isinstance(values, list) else [values])]
    return [call for call in found if call is not None] if all(found) else []


def _call(value: Any) -> Call | None:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    if not isinstance(arguments, dict):
        return None
    try:
        return Call(value["name"], json.dumps(arguments, ensure_ascii=False, allow_nan=False))
    except ValueError:
        return None


def _overlap(text: str, tag: str) -> int:
    """Longest end of `text` that begins `tag`."""
    for length in range(min(len(text), len(tag) - 1), 0, -1):
        if tag.startswith(text[-length:]):
            return length
    return 0
