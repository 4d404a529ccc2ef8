"""How one call is written between its tags: four kinds of layout, each with its parts as data.

`read` takes what comes next as one call or a list of them, or raises Mismatch. With `bare` there
are no tags that announce a call, so it must name a function on offer, and the earliest character
that cannot belong to one is a mismatch: text is never held back for long.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from halfbyte.text.calls.call import Call, Offer, make_call, typed
from halfbyte.text.calls.feed import Mismatch, Steps, TextFeed
from halfbyte.text.calls.values import JSON, Syntax, key_of, value

_NAME = re.compile(r"[a-zA-Z0-9_.:-]*")
_WORD = re.compile(r"[\w-]*")
_IDENTIFIER = re.compile(r"\w*")
_INDEX = re.compile(r":\d+$")
_ID = re.compile(r"[\w-]*")
MAX_NAME_CHARS = 128
_BESIDE = ("id", "type", "function", "index", "call_id", "tool_call_id")


class Layout(Protocol):
    """One way to write a call."""

    def read(
        self, feed: TextFeed, offer: Offer, close: str = "", *, bare: bool = False
    ) -> Steps[list[Call]]:
        """The calls that come next; `close` is the tag that will end them."""

    def literals(self) -> Iterable[str]:
        """The fixed texts it is written with."""


@dataclass(frozen=True, slots=True)
class JsonCalls:
    """`{"name": …, "arguments": {…}}`, or a list of these; OpenAI's nesting is read too."""

    names: tuple[str, ...] = ("name",)
    arguments: tuple[str, ...] = ("arguments", "parameters")
    name_is_key: bool = False  # {"get_time": {…}}

    def literals(self) -> Iterable[str]:
        """See the protocol."""
        return ()

    def read(
        self, feed: TextFeed, offer: Offer, close: str = "", *, bare: bool = False
    ) -> Steps[list[Call]]:
        """See the protocol."""
        yield from feed.space()
        if not (yield from feed.take("[")):
            one = yield from self._object(feed, offer, bare=bare)
            return [one]
        return (yield from _to_bracket(feed, lambda: self._object(feed, offer, bare=bare)))

    def _object(self, feed: TextFeed, offer: Offer, *, bare: bool) -> Steps[Call]:
        members = yield from self._members(feed, offer, bare=bare)
        inner = members.get("function")
        if isinstance(inner, dict):
            members |= inner
        if self.name_is_key and len(members) == 1:
            ((key, arguments),) = members.items()
            return make_call(key, arguments)
        name = next((members[key] for key in self.names if key in members), inner)
        given = [members[key] for key in self.arguments if key in members]
        if not given and (bare or members.keys() - {*self.names, *_BESIDE}):
            raise Mismatch  # what has a name may be any object
        return make_call(name, given[0] if given else None)

    def _members(
        self, feed: TextFeed, offer: Offer, *, bare: bool, inside: bool = False
    ) -> Steps[dict[str, Any]]:
        """Those of an object; bare, only with keys that a call has."""
        known = _quoted((*self.names, *self.arguments, *_BESIDE))
        found = dict[str, Any]()
        yield from feed.expect("{")
        while True:
            yield from feed.space()
            if (yield from feed.take("}")):
                return found
            if bare and not self.name_is_key:
                key = _unquoted((yield from feed.one_of(known)))
                yield from feed.space()
            else:
                key = yield from key_of(feed)
            if bare and self.name_is_key and key not in offer.functions:
                raise Mismatch
            yield from feed.expect(":")
            yield from feed.space()
            nested = key == "function" and not inside and (yield from feed.at("{"))
            if nested:
                found[key] = yield from self._members(feed, offer, bare=bare, inside=True)
            elif bare and key in (*self.names, "function"):
                found[key] = _unquoted((yield from feed.one_of(_quoted(offer.functions))))
            else:
                found[key] = yield from value(feed, after=",}")
            yield from feed.space()
            if not (yield from feed.take(",")):
                yield from feed.expect("}")
                return found


@dataclass(frozen=True, slots=True)
class NamedCalls:
    """A name, something between, and its arguments as an object."""

    between: tuple[str, ...]  # the first that comes after the name
    before: str = ""
    after: str = ""  # read if it is there
    prefix: str = ""  # of the name, no part of it
    name_is_id: bool = False  # "functions.NAME:0" is the call's id
    id_mark: str = ""  # before an id that stands between name and arguments
    syntax: Syntax = JSON

    def literals(self) -> Iterable[str]:
        """See the protocol."""
        return (*self.between, self.before, self.after, self.id_mark, *self.syntax.quotes)

    def read(
        self, feed: TextFeed, offer: Offer, close: str = "", *, bare: bool = False
    ) -> Steps[list[Call]]:
        """See the protocol."""
        yield from feed.expect(self.before)
        if not bare:
            yield from feed.space()
        written = yield from _function_name(feed, offer, bare=bare)
        name = written.removeprefix(self.prefix)
        given = None
        if self.name_is_id and _INDEX.search(name):
            given = written
            name = _INDEX.sub("", name)
        elif self.id_mark and (yield from feed.take(self.id_mark)):
            given = yield from feed.run(_ID, MAX_NAME_CHARS)
        between = yield from feed.one_of(self.between)
        if between is None:
            yield from feed.space()
            between = yield from feed.one_of(self.between)
        if between is None:
            raise Mismatch
        fenced = yield from open_fence(feed)
        yield from feed.space()
        if not (yield from feed.at("{")):
            raise Mismatch
        arguments = yield from value(feed, self.syntax)
        if fenced:
            yield from close_fence(feed)
        if self.after:
            yield from feed.space()
            yield from feed.take(self.after)
        return [make_call(name, arguments, given)]


@dataclass(frozen=True, slots=True)
class MarkedCalls:
    """A name and parameters between tags of their own; what a value is, its schema says."""

    name_open: str
    name_end: str
    key_open: str
    key_end: str
    value_end: str
    end: str  # of a call; empty: the tag around it ends it
    head_end: str = ""  # ends the tag with the name, where more stands in it
    key_head_end: str = ""  # likewise of the key
    value_open: str = ""
    lines: bool = False  # values stand on lines of their own
    # What else the tag with the key says -> whether the value is text (True) or JSON.
    kinds: Mapping[str, bool] = field(default_factory=dict)

    def literals(self) -> Iterable[str]:
        """See the protocol."""
        names = (self.name_open, self.name_end, self.head_end, self.end)
        keys = (self.key_open, self.key_end, self.key_head_end, self.value_open, self.value_end)
        return (*names, *keys)

    def read(
        self, feed: TextFeed, offer: Offer, close: str = "", *, bare: bool = False
    ) -> Steps[list[Call]]:
        """See the protocol."""
        yield from feed.expect(self.name_open)
        yield from feed.space()
        name = yield from feed.run(_NAME, MAX_NAME_CHARS)
        if not self.name_open and name not in offer.functions:
            raise Mismatch  # any word could be one
        yield from feed.expect(self.name_end)
        if self.head_end:
            yield from feed.through(self.head_end)
        arguments = dict[str, Any]()
        while True:
            yield from feed.space()
            if self.end and (yield from feed.take(self.end)):
                break
            if not self.end and not (yield from feed.at(self.key_open)):
                break
            if close and (yield from feed.at(close)):
                break
            key, text, is_text = yield from self._parameter(feed, close)
            arguments[key] = typed(text, offer.parameter(name, key), is_text)
        return [make_call(name, arguments)]

    def _parameter(self, feed: TextFeed, close: str) -> Steps[tuple[str, str, bool | None]]:
        """Its name, its text, and whether its tag says what that is."""
        yield from feed.expect(self.key_open)
        key = yield from feed.through(self.key_end)
        rest = ""
        if self.key_head_end:
            rest = yield from feed.through(self.key_head_end)
        if self.value_open:
            yield from feed.space()
            yield from feed.expect(self.value_open)
        text = yield from self._value(feed, close)
        if self.lines:
            text = text.removeprefix("\n").removesuffix("\n")
        return key.strip(), text, self.kinds.get(rest)

    def _value(self, feed: TextFeed, close: str) -> Steps[str]:
        """Up to the closing tag that something of a call follows; others are text."""
        following = [x for x in (self.key_open, self.end, close) if x]
        pieces = list[str]()
        while True:
            text, found = yield from feed.upto((self.value_end,))
            if text:
                pieces.append(text)
                continue
            if not found:
                raise Mismatch
            space = yield from feed.space()
            if not (yield from feed.peek()):
                return "".join(pieces)
            for literal in following:
                if (yield from feed.at(literal)):
                    return "".join(pieces)
            pieces += (found, space)


@dataclass(frozen=True, slots=True)
class PythonCalls:
    """`[f(a=1, b="x"), g()]`, or a call alone; nothing is ever evaluated."""

    syntax: Syntax = JSON

    def literals(self) -> Iterable[str]:
        """See the protocol."""
        return ()

    def read(
        self, feed: TextFeed, offer: Offer, close: str = "", *, bare: bool = False
    ) -> Steps[list[Call]]:
        """See the protocol."""
        yield from feed.space()
        if not (yield from feed.take("[")):
            if bare:
                raise Mismatch
            one = yield from self._call(feed, offer, bare=False)
            return [one]
        return (yield from _to_bracket(feed, lambda: self._call(feed, offer, bare=bare)))

    def _call(self, feed: TextFeed, offer: Offer, *, bare: bool) -> Steps[Call]:
        name = yield from _function_name(feed, offer, bare=bare)
        if not name:
            raise Mismatch
        name = name.removesuffix(".call")  # Llama's built-in tools
        yield from feed.expect("(")
        arguments = dict[str, Any]()
        while True:
            yield from feed.space()
            if (yield from feed.take(")")):
                break
            first = yield from feed.peek()
            if first.isalpha() or first == "_":
                key = yield from feed.run(_IDENTIFIER, MAX_NAME_CHARS)
                yield from feed.space()
                yield from feed.expect("=")
            else:
                key = offer.parameter_at(name, len(arguments))
            arguments[key] = yield from value(feed, self.syntax, ",)")
            yield from feed.space()
            if not (yield from feed.take(",")):
                yield from feed.expect(")")
                break
        return make_call(name, arguments)


def _to_bracket(feed: TextFeed, one: Callable[[], Steps[Call]]) -> Steps[list[Call]]:
    """The calls of a list that has been opened, up to its `]`; commas may be missing."""
    calls = list[Call]()
    while True:
        yield from feed.space()
        if calls and (yield from feed.take("]")):
            return calls
        calls.append((yield from one()))
        yield from feed.space()
        yield from feed.take(",")


def open_fence(feed: TextFeed) -> Steps[bool]:
    """Read the line that opens a code fence, if it comes next."""
    if not (yield from feed.take("```")):
        return False
    yield from feed.run(_WORD, MAX_NAME_CHARS)
    return True


def close_fence(feed: TextFeed) -> Steps[None]:
    """Read the end of a code fence; it may be missing where the answer ends."""
    yield from feed.space()
    if (yield from feed.peek()):
        yield from feed.expect("```")


def _quoted(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{quote}{name}{quote}" for name in names for quote in "\"'")


def _unquoted(text: str | None) -> str:
    if text is None:
        raise Mismatch
    return text[1:-1]


def _function_name(feed: TextFeed, offer: Offer, *, bare: bool) -> Steps[str]:
    """A name as it is written; bare, one on offer or Mismatch."""
    if not bare:
        written: str | None = yield from feed.run(_NAME, MAX_NAME_CHARS)
    else:
        written = yield from feed.one_of(sorted(offer.functions, key=len, reverse=True))
    if written is None:
        raise Mismatch
    return written
