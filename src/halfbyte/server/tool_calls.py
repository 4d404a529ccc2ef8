"""Finds tool calls in a growing answer. Which form a model writes is read from its template."""

from __future__ import annotations

import json
from collections.abc import Collection
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


def reader_for(template: str, names: Collection[str], *, forced: bool) -> CallReader:
    """`names`: the functions on offer. `forced`: the answer is one JSON call and nothing else."""
    return TaggedOrBareCalls(names) if OPEN in template and not forced else BareCalls(names)


class TaggedOrBareCalls:
    """Small models forget the tags: an answer that begins as JSON may be a call without them."""

    def __init__(self, names: Collection[str]) -> None:
        self._bare = BareCalls(names)
        self._tagged = TaggedCalls()

    def add(self, text: str) -> tuple[str, list[Call]]:
        """See `CallReader`."""
        content, _ = self._bare.add(text)
        return self._tagged.add(content)

    def finish(self) -> tuple[str, list[Call]]:
        """The bare calls, or what is left of the text and its tagged ones."""
        held, calls = self._bare.finish()
        content, tagged = self._tagged.add(held)
        rest, last = self._tagged.finish()
        return content + rest, calls + tagged + last


class TaggedCalls:
    """`<tool_call>{"name": …, "arguments": …}</tool_call>` amid text (Qwen, Hermes).

    Line breaks around a call belong to it, not to the text.
    """

    def __init__(self) -> None:
        self._held = ""
        self._gap = ""  # line breaks before the call that is being read
        self._inside = False
        self._after_call = False

    def add(self, text: str) -> tuple[str, list[Call]]:
        """See `CallReader`."""
        self._held += text
        content, calls = "", list[Call]()
        while CLOSE in self._held if self._inside else OPEN in self._held:
            if self._inside:
                body, _, self._held = self._held.partition(CLOSE)
                found = parse_calls(body)
                calls += found
                content += "" if found else self._gap + OPEN + body + CLOSE
                self._after_call = bool(found)
            else:
                before, _, self._held = self._held.partition(OPEN)
                before = self._without_break(before)
                kept = before.rstrip("\n")
                content, self._gap = content + kept, before[len(kept) :]
            self._inside = not self._inside
        return content + self._release(), calls

    def finish(self) -> tuple[str, list[Call]]:
        """An unfinished call that parses counts; anything else is content."""
        held, self._held = self._held, ""
        if not self._inside:
            return self._without_break(held), []
        calls = parse_calls(held)
        return ("", calls) if calls else (self._gap + OPEN + held, [])

    def _release(self) -> str:
        """Text that no tag can begin in, nor line breaks that one may follow."""
        if self._inside:
            return ""
        self._held = self._without_break(self._held)
        certain = len(self._held) - _overlap(self._held, OPEN)
        certain = len(self._held[:certain].rstrip("\n"))
        content, self._held = self._held[:certain], self._held[certain:]
        return content

    def _without_break(self, text: str) -> str:
        if self._after_call:
            text = text.lstrip("\n")
            self._after_call = not text
        return text


class BareCalls:
    """The whole answer is a JSON object, or a list of them (Llama 3, Mistral, a forced call)."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
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
        # JSON that was asked for may have a name too.
        is_call = calls and all(call.name in self._names for call in calls)
        return ("", calls) if is_call else (held, [])


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
    arguments = value.get("arguments", value.get("parameters"))
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
