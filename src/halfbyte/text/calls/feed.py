"""Text that arrives in pieces, for parsers written as if it were all there.

A parser is a coroutine: it yields where the text so far does not decide, and goes on when more
has come. What it decides depends on the characters alone, never on how they were cut, so a stream
and the whole text give the same result. Every character is copied a bounded number of times.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from functools import lru_cache
from typing import TypeVar

T = TypeVar("T")
Steps = Generator[None, None, T]  # yields where it needs more text

MAX_HELD_CHARS = 1 << 18  # of one attempt to read a call; a longer one is text
# All attempts of an answer together: a hostile answer opens calls that fail at its end.
MAX_REREAD_CHARS = 1 << 20


class Mismatch(Exception):  # noqa: N818 - how a parser says no, never an error of a caller
    """The text is not of the form a parser reads."""


class TextFeed:
    """What came and was not read yet; between `hold` and `drop` it can be had again."""

    def __init__(self) -> None:
        self._text = ""
        self._at = 0  # characters before it are read
        self._ended = False
        self._held: list[str] | None = None  # read since `hold`, but for what `_text` still has
        self._held_chars = 0
        self._held_from = 0  # of `_text`
        self._reread_chars = 0

    def add(self, text: str) -> None:
        """More of it."""
        if self._held is not None:
            self._held.append(self._text[self._held_from : self._at])
            self._held_chars += self._at - self._held_from
            self._held_from = 0
        self._text = self._text[self._at :] + text
        self._at = 0

    def end(self) -> None:
        """No more will come."""
        self._ended = True

    # Attempts

    @property
    def may_hold(self) -> bool:
        """Whether another attempt is within what an answer may cost."""
        return self._reread_chars < MAX_REREAD_CHARS

    def hold(self) -> None:
        """Keep what is read from here on; Mismatch where it becomes too much."""
        self._held, self._held_chars, self._held_from = [], 0, self._at

    def drop(self) -> None:
        """What was read since `hold` is done with."""
        self._held = None

    def rewind(self) -> None:
        """Back to where `hold` was called."""
        assert self._held is not None
        self._reread_chars += min(self._read_since_hold(), MAX_HELD_CHARS)
        if self._held:
            self._text = "".join(self._held) + self._text[self._held_from :]
            self._held_from = 0
        self._at = self._held_from
        self._held = None

    # Reading

    def more(self) -> Steps[bool]:
        """Wait for a character; False: the text has ended."""
        while self._at >= len(self._text):
            if self._ended:
                return False
            yield
        return True

    def peek(self) -> Steps[str]:
        """The next character, unread; empty at the end."""
        there = yield from self.more()
        return self._text[self._at] if there else ""

    def skip(self, count: int = 1) -> None:
        """Read characters that were looked at."""
        self._read_to(self._at + count)

    def back(self, count: int) -> None:
        """Unread characters of what `upto` has just found."""
        self._at -= count

    def at(self, literal: str) -> Steps[bool]:
        """Whether `literal` comes next; nothing is read."""
        while True:
            known = len(self._text) - self._at
            if not self._text.startswith(literal[:known], self._at):
                return False
            if known >= len(literal):
                return True
            if self._ended:
                return False
            yield

    def take(self, literal: str) -> Steps[bool]:
        """Read `literal` if it comes next."""
        found = yield from self.at(literal)
        if found:
            self.skip(len(literal))
        return found

    def one_of(self, literals: Sequence[str]) -> Steps[str | None]:
        """Read the first of these that comes next."""
        for literal in literals:
            found = yield from self.take(literal)
            if found:
                return literal
        return None

    def expect(self, literal: str) -> Steps[None]:
        """Read `literal`; Mismatch where something else comes."""
        found = yield from self.take(literal)
        if not found:
            raise Mismatch

    def run(self, pattern: re.Pattern[str], limit: int = MAX_HELD_CHARS) -> Steps[str]:
        """The characters that `pattern`, a class repeated (`[a-z]*`), matches.

        Mismatch for more than `limit`.
        """
        pieces, left = list[str](), limit
        while (yield from self.more()):
            found = pattern.match(self._text, self._at, self._at + left + 1)
            end = self._at if found is None else found.end()
            pieces.append(self._text[self._at : end])
            left -= end - self._at
            self._read_to(end)
            if left < 0:
                raise Mismatch
            if end < len(self._text):
                break
        return "".join(pieces)

    def space(self) -> Steps[str]:
        """White space."""
        found = yield from self.run(_SPACE)
        return found

    def upto(self, literals: Sequence[str]) -> Steps[tuple[str, str]]:
        """Text in which none of these can begin, or else the one that comes now.

        Two empty strings are the end. For text that is given on as it comes: call it again.
        """
        while (yield from self.more()):
            if not literals:
                text = self._text[self._at :]
                self._read_to(len(self._text))
                return text, ""
            found = first_of(literals).search(self._text, self._at)
            certain = len(self._text) if self._ended else self._undecided(literals)
            at = min(certain, found.start() if found else len(self._text))
            if at > self._at:
                text = self._text[self._at : at]
                self._read_to(at)
                return text, ""
            if found and found.start() == at < certain:
                self._read_to(found.end())
                return "", found.group()
            yield
        return "", ""

    def through(self, literal: str) -> Steps[str]:
        """The text before `literal`, both read; Mismatch where it does not come."""
        pieces = list[str]()
        while True:
            text, found = yield from self.upto((literal,))
            if found:
                return "".join(pieces)
            if not text:
                raise Mismatch
            pieces.append(text)

    def _read_to(self, at: int) -> None:
        self._at = at
        if self._held is not None and self._read_since_hold() > MAX_HELD_CHARS:
            raise Mismatch

    def _read_since_hold(self) -> int:
        return self._held_chars + self._at - self._held_from

    def _undecided(self, literals: Sequence[str]) -> int:
        """Where a literal may begin that the text so far is too short to decide; the earliest."""
        size, begun = len(self._text), _beginnings(tuple(literals))
        longest = max(map(len, literals))
        at = max(self._at, size - longest + 1)
        return next((i for i in range(at, size) if self._text[i:] in begun), size)


_SPACE = re.compile(r"\s*")


@lru_cache(maxsize=256)
def _pattern(literals: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(literals, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)))


@lru_cache(maxsize=256)
def _beginnings(literals: tuple[str, ...]) -> frozenset[str]:
    return frozenset(text[:size] for text in literals for size in range(1, len(text)))


def first_of(literals: Sequence[str]) -> re.Pattern[str]:
    """A pattern of these; where two begin alike the longer is found."""
    return _pattern(tuple(literals))
