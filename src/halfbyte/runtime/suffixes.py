"""Where did this context stand before: a suffix tree of a growing text, cut at a fixed depth.

Tokens that end at a position, read backwards, are a path from the root. A node stands for all the
positions its path ends at and knows the latest. A path that only one position has is not spelt
out: its node is a leaf, and the rest is read from the text when it is needed.

    text  x a b c a b d        root - b (5) - a (5) -+- x  leaf of 2
                                                     +- c  leaf of 5

This is the definition, and the oracle of the index that `ngram` uses (`csrc/host/suffixes.h`).
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Seq
from typing import NamedTuple

BREAK = -1  # a token that nothing matches and nothing continues over


class Match(NamedTuple):
    """The last `length` tokens of a context also end at position `end` of the text."""

    length: int
    end: int


NO_MATCH = Match(0, -1)


class _Node:
    __slots__ = ("children", "latest")

    def __init__(self, latest: int) -> None:
        self.latest = latest
        self.children: dict[int, _Node] | None = None  # by the token before; None: a leaf


class SuffixIndex:
    """All places of a text that a token follows. Adding a token takes at most `depth` steps."""

    def __init__(self, depth: int) -> None:
        self.text: list[int] = []
        self._depth = depth
        self._root = _Node(-1)
        self._root.children = {}

    def extend(self, tokens: Iterable[int]) -> None:
        """Add tokens to the end of the text."""
        for token in tokens:
            self.text.append(token)
            # Only now has the position before it something to propose.
            if token != BREAK and len(self.text) > 1:
                self._insert(len(self.text) - 2)

    def follow(self, text: Seq[int]) -> Match:
        """Add the tokens that the text has gained; returns the match of its end."""
        self.extend(text[len(self.text) :])
        return self.find(text)

    def slice(self, begin: int, end: int) -> list[int]:
        """Tokens begin .. end - 1 of the text, or fewer where it ends."""
        return self.text[begin:end]

    def __len__(self) -> int:
        return len(self.text)

    def find(self, context: Seq[int]) -> Match:
        """The longest suffix of `context`, up to the depth, in the text; its latest place."""
        node, length = self._root, 0
        most = min(self._depth, len(context))
        while node.children is not None:
            child = node.children.get(context[-1 - length]) if length < most else None
            if child is None:
                return Match(length, node.latest) if length else NO_MATCH
            node, length = child, length + 1
        end = node.latest
        while length < most and length <= end and self.text[end - length] == context[-1 - length]:
            length += 1
        return Match(length, end)

    def _insert(self, end: int) -> None:
        node, text = self._root, self.text
        for length in range(self._depth):
            if node.children is None:  # a leaf no more: spell out one more token of its place
                node.children = {}
                before = node.latest - length
                if before >= 0 and text[before] != BREAK:
                    node.children[text[before]] = _Node(node.latest)
            node.latest = end
            before = end - length
            if before < 0 or text[before] == BREAK:
                return
            child = node.children.get(text[before])
            if child is None:
                node.children[text[before]] = _Node(end)
                return
            node = child
        node.latest = end


def match_lengths(indices: Seq[SuffixIndex], texts: Seq[Seq[int]]) -> list[int]:
    """`follow` of every index with its text: how long each match is."""
    return [index.follow(text).length for index, text in zip(indices, texts, strict=True)]
