"""Text of a message is text: control tokens spelled in it do not become control tokens.

A template mixes its own control tokens with untrusted text, and afterwards nothing tells
them apart. So before, a mark is put inside every control token that a message spells; what the
template writes whole is its own. Encoding takes the marks out again, with a tokenizer that knows
the template's control tokens under names of their own and no others.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tokenizers import AddedToken, Tokenizer

from halfbyte.errors import ArgumentError


@dataclass(frozen=True, slots=True)
class Marked:
    """Values with marks in them; `mark` is empty where there was nothing to mark."""

    values: Any
    mark: str


class ControlTokens:
    """Those of one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        # A token of one character has no inside.
        self._added = {t.content: t for t in added.values() if len(t.content) > 1}
        self.ids = {t.content: i for i, t in added.items()}
        self._plain: tuple[frozenset[str], _PlainEncoder] | None = None

    def of_template(self, source: str) -> frozenset[str]:
        """Special tokens, and the added ones a template writes: tags of calls and the like."""
        return frozenset(
            text
            for text, token in self._added.items()
            if token.special or (not text.isspace() and text in source)
        )

    @property
    def special_texts(self) -> frozenset[str]:
        """Those that decoding leaves out."""
        return frozenset(text for text, token in self._added.items() if token.special)

    def special(self, texts: Iterable[str]) -> tuple[int, ...]:
        """Ids of the tokens that decoding leaves out, of these texts."""
        return tuple(
            self.ids[text] for text in texts if text in self._added and self._added[text].special
        )

    def marked(self, values: Any, tokens: Callable[[Any], frozenset[str]]) -> Marked:
        """Strings anywhere in `values`, a list; `tokens`: which to mark in each of its items."""
        mark = ""
        result = []
        for value in values:
            pattern = _starts(tokens(value))
            if _has(value, pattern):
                # Digits pass through filters and JSON; twenty of them cannot be guessed.
                mark = mark or f"{secrets.randbelow(10**20):020d}"
                value = _with_marks(value, pattern, mark)
            result.append(value)
        return Marked(result, mark)

    def encode(self, text: str, mark: str, tokens: frozenset[str]) -> list[int]:
        """Token ids of a rendered text whose marks say what is no control token."""
        if self._plain is None or self._plain[0] != tokens:
            self._plain = tokens, _PlainEncoder(self._tokenizer, tokens)
        return self._plain[1].encode(text, mark)


class _PlainEncoder:
    """A copy of a tokenizer that reads control tokens only behind a prefix of its own."""

    def __init__(self, tokenizer: Tokenizer, tokens: frozenset[str]) -> None:
        description = json.loads(tokenizer.to_str())
        for token in description["added_tokens"]:
            # Special tokens are what `encode_special_tokens` makes the tokenizer take for text.
            token["special"] = token["special"] or token["content"] in tokens
        self._copy = Tokenizer.from_str(json.dumps(description))
        self._copy.encode_special_tokens = True
        self._prefix = secrets.token_hex(8)
        self._pattern = re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))))
        decoder = tokenizer.get_added_tokens_decoder()
        added = {i: token for i, token in decoder.items() if token.content in tokens}
        self._copy.add_tokens([self._renamed(token) for token in added.values()])
        self._controls = {i: token.content for i, token in added.items()}
        self._own = {
            self._copy.token_to_id(self._prefix + text): i for i, text in self._controls.items()
        }

    def _renamed(self, token: AddedToken) -> AddedToken:
        return AddedToken(
            self._prefix + token.content,
            lstrip=token.lstrip,
            rstrip=token.rstrip,
            single_word=token.single_word,
            normalized=False,
        )

    def encode(self, text: str, mark: str) -> list[int]:
        named = self._pattern.sub(lambda found: self._prefix + found.group(), text)
        ids = self._copy.encode(named.replace(mark, ""), add_special_tokens=False).ids
        spelled = next((self._controls[i] for i in ids if i in self._controls), None)
        if spelled is not None:  # the vocabulary itself has it as a piece of text
            raise ArgumentError(
                "messages",
                got=f"the control token {spelled!r} in a text",
                expected="texts that this tokenizer can tell from control tokens",
                fix="leave it out",
            )
        return [self._own.get(i, i) for i in ids]


@lru_cache(maxsize=8)
def _starts(tokens: frozenset[str]) -> re.Pattern[str]:
    """The first character of each, also of those that begin inside another."""
    any_of = "|".join(map(re.escape, sorted(tokens)))
    return re.compile(f"(?=(?:{any_of})).", re.DOTALL) if tokens else re.compile("(?!)")


def _has(value: Any, pattern: re.Pattern[str]) -> bool:
    if isinstance(value, str):
        return pattern.search(value) is not None
    if isinstance(value, Mapping):
        return any(_has(key, pattern) or _has(item, pattern) for key, item in value.items())
    return isinstance(value, Sequence) and any(_has(item, pattern) for item in value)


def _with_marks(value: Any, pattern: re.Pattern[str], mark: str) -> Any:
    if isinstance(value, str):
        return pattern.sub(lambda found: found.group() + mark, value)
    if isinstance(value, Mapping):
        return {
            _with_marks(key, pattern, mark): _with_marks(item, pattern, mark)
            for key, item in value.items()
        }
    if isinstance(value, Sequence):
        return [_with_marks(item, pattern, mark) for item in value]
    return value
