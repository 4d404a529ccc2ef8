"""Values as models write them: JSON, Python's literals, and text that is nearly one of them.

Read from a growing text, never evaluated. Beyond the standards: raw line breaks and tabs in
strings, a quote inside a string that nothing after it lets end there, single quotes, unknown
escapes, trailing commas.
"""

from __future__ import annotations

import math
import re
import sys
from dataclasses import dataclass
from typing import Any

from halfbyte.text.calls.feed import Mismatch, Steps, TextFeed

MAX_DEPTH = 64
MAX_SCALAR_CHARS = 400

_WORDS = {"true": True, "false": False, "null": None, "True": True, "False": False, "None": None}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_SELF = frozenset("\"'\\/")  # escaped, they are themselves
_SCALAR = re.compile(r"[A-Za-z0-9_+.\-]*")
_NUMBER = re.compile(r"[+-]?(\d+)(\.\d*)?([eE][+-]?\d+)?")
_BARE_KEY = re.compile(r"[^\s:,{}\[\]()\"']*")
_HEX = frozenset("0123456789abcdefABCDEF")


@dataclass(frozen=True, slots=True)
class Syntax:
    """How a form spells values."""

    quotes: tuple[str, ...] = ('"', "'")
    raw: tuple[str, ...] = ()  # of these: between them each character is itself
    raw_depth: int = MAX_DEPTH  # but not in lists and objects deeper than this
    bare_keys: bool = False

    def is_raw(self, quote: str, depth: int) -> bool:
        """Whether nothing is escaped between these."""
        return quote in self.raw and depth <= self.raw_depth


JSON = Syntax()


def value(feed: TextFeed, syntax: Syntax = JSON, after: str = "", depth: int = 0) -> Steps[Any]:
    """The value that comes next; Mismatch where none does.

    `after`: characters that may follow a string here; others leave its quote a part of it.
    """
    if depth > MAX_DEPTH:
        raise Mismatch
    yield from feed.space()
    quote = yield from feed.one_of(syntax.quotes)
    if quote is not None:
        found: Any = yield from string(feed, quote, after, raw=syntax.is_raw(quote, depth))
        return found
    first = yield from feed.peek()
    if first == "{":
        feed.skip()
        found = yield from _members(feed, syntax, depth)
    elif first in ("[", "("):
        feed.skip()
        found = yield from _items(feed, "]" if first == "[" else ")", syntax, depth)
    else:
        found = yield from _scalar(feed)
    return found


def string(feed: TextFeed, quote: str, after: str, *, raw: bool) -> Steps[str]:
    """The rest of a string whose opening quote is read, and the white space after it."""
    stops = (quote,) if raw else (quote, "\\")
    pieces = list[str]()
    while True:
        text, stop = yield from feed.upto(stops)
        if text:
            pieces.append(text)
        elif not stop:
            raise Mismatch
        elif stop == "\\":
            pieces.append((yield from _escape(feed)))
        else:
            space = yield from feed.space()
            following = yield from feed.peek()
            if not following or following in after:
                return _paired("".join(pieces))
            pieces += (quote, space)


def read_value(text: str) -> Any:
    """The one value a text is; Mismatch where it is something else."""
    feed = TextFeed()
    feed.add(text)
    feed.end()
    steps = _alone(feed)
    try:
        next(steps)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("a text that has ended needs no more")


def _alone(feed: TextFeed) -> Steps[Any]:
    found = yield from value(feed)
    yield from feed.space()
    if (yield from feed.peek()):
        raise Mismatch
    return found


def _members(feed: TextFeed, syntax: Syntax, depth: int) -> Steps[dict[str, Any]]:
    found = dict[str, Any]()
    while True:
        yield from feed.space()
        if (yield from feed.take("}")):
            return found
        key = yield from key_of(feed, syntax, depth + 1)
        yield from feed.expect(":")
        found[key] = yield from value(feed, syntax, ",}", depth + 1)
        yield from feed.space()
        if not (yield from feed.take(",")):
            yield from feed.expect("}")
            return found


def key_of(feed: TextFeed, syntax: Syntax = JSON, depth: int = 0) -> Steps[str]:
    """A key and the white space after it."""
    quote = yield from feed.one_of(syntax.quotes)
    if quote is not None:
        key = yield from string(feed, quote, ":", raw=syntax.is_raw(quote, depth))
    else:
        key = yield from feed.run(_BARE_KEY)
        if not (key and syntax.bare_keys):
            raise Mismatch
    yield from feed.space()
    return key


def _items(feed: TextFeed, end: str, syntax: Syntax, depth: int) -> Steps[list[Any]]:
    found = list[Any]()
    while True:
        yield from feed.space()
        if (yield from feed.take(end)):
            return found
        found.append((yield from value(feed, syntax, "," + end, depth + 1)))
        yield from feed.space()
        if not (yield from feed.take(",")):
            yield from feed.expect(end)
            return found


def _scalar(feed: TextFeed) -> Steps[Any]:
    word = yield from feed.run(_SCALAR, MAX_SCALAR_CHARS)
    if word in _WORDS:
        return _WORDS[word]
    number = _NUMBER.fullmatch(word)
    if number is None:
        raise Mismatch
    if number[2] is None and number[3] is None:
        return int(word)
    found = float(word)
    if not math.isfinite(found):
        raise Mismatch
    return found


def _escape(feed: TextFeed) -> Steps[str]:
    letter = yield from feed.peek()
    if not letter:
        raise Mismatch
    feed.skip()
    if letter in _SELF:
        return letter
    if letter in _ESCAPES:
        return _ESCAPES[letter]
    size = {"u": 4, "x": 2, "U": 8}.get(letter, 0)
    digits = ""
    while len(digits) < size and (yield from feed.peek()) in _HEX:
        digits += yield from feed.peek()
        feed.skip()
    is_character = size > 0 and len(digits) == size and int(digits, 16) <= sys.maxunicode
    return chr(int(digits, 16)) if is_character else "\\" + letter + digits


def _paired(text: str) -> str:
    """Surrogates that escapes wrote, joined; U+FFFD for one alone."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
