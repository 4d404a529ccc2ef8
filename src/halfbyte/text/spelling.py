"""What a token spells: the bytes it adds to a text.

Most decoders of today write a text as the bytes of its tokens in a row: `ByteLevel`, and those of
SentencePiece, where only the space of the very first word is dropped. Of these every token has
bytes of its own, be it a part of a character. Of the others (Metaspace, WordPiece, word suffixes) a
token spells what it adds behind a letter.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from tokenizers import AddedToken, Tokenizer

_BYTE_TOKEN = re.compile("<0x[0-9A-Fa-f]{2}>")
_MOST_TRIED = 4096  # tokens looked at for one that spells letters


class Spelling:
    """Bytes of one tokenizer's tokens. `in_a_row`: a text is those of its tokens, joined."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._added: dict[int, AddedToken] = tokenizer.get_added_tokens_decoder()
        # Tokens that steer a model and are none of its text, by their names.
        self.control_names = {i: t.content for i, t in self._added.items() if t.special}
        self._form = _form(tokenizer)
        self.in_a_row = self._form is not None
        self._known: dict[int, bytes] = {}

    def bytes_of(self, token: int) -> bytes:
        """What `token` adds within a text; a control token its name, an unknown id nothing."""
        found = self._known.get(token)
        if found is None:
            found = self._known[token] = self._spelled(token)
        return found

    def first_bytes_of(self, token: int) -> bytes:
        """What `token` adds where nothing stands before it."""
        if self._form is None:
            return self._tokenizer.decode([token], skip_special_tokens=False).encode()
        data = self.bytes_of(token)
        return data[1:] if self._form.drops_space and data.startswith(b" ") else data

    def _spelled(self, token: int) -> bytes:
        name = self._tokenizer.id_to_token(token)
        if name is None:
            return b""
        if self._form is not None:
            return self._form.spell(name, added=token in self._added)
        if token in self.control_names:
            return name.encode()
        if self.letter is None:
            return self.first_bytes_of(token)
        one, two = (
            self._tokenizer.decode(ids, skip_special_tokens=False)
            for ids in ([self.letter], [self.letter, token])
        )
        return two.removeprefix(one).encode()

    @cached_property
    def letter(self) -> int | None:
        """A token that leaves its mark on no neighbour but by standing before it."""
        for token in range(min(self._tokenizer.get_vocab_size(), _MOST_TRIED)):
            text = self._tokenizer.decode([token])
            if text.isalpha() and self._tokenizer.decode([token, token]).startswith(text):
                return token
        return None


@dataclass(frozen=True, slots=True)
class _Form:
    """How a decoder turns the name of a token into bytes."""

    byte_level: bool = False
    replaced: tuple[tuple[str, str], ...] = ()  # a mark by a space
    byte_tokens: bool = False  # <0x0A> is a byte
    drops_space: bool = False  # the first of a text

    def spell(self, name: str, *, added: bool) -> bytes:
        """Bytes of a token by its name; what is added to a byte-level vocabulary is plain text."""
        if self.byte_level:
            table = _byte_of_character()
            if added or not all(c in table for c in name):
                return name.encode("utf-8", errors="replace")
            return bytes(table[c] for c in name)
        for old, new in self.replaced:
            name = name.replace(old, new)
        if self.byte_tokens and _BYTE_TOKEN.fullmatch(name):
            return bytes.fromhex(name[3:5])
        return name.encode("utf-8", errors="replace")


def _form(tokenizer: Tokenizer) -> _Form | None:
    """None: a decoder whose tokens depend on their neighbours, or an unknown one."""
    if tokenizer.decoder is None:
        return None
    steps = _steps(json.loads(tokenizer.decoder.__getstate__()))
    if [step["type"] for step in steps] == ["ByteLevel"]:
        return _Form(byte_level=True)
    replaced = list[tuple[str, str]]()
    byte_tokens = drops_space = is_fused = False
    for step in steps:
        match step:
            case {"type": kind} if is_fused and kind != "Strip":
                return None
            case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)}:
                replaced.append((old, new))
            case {"type": "ByteFallback"}:
                byte_tokens = True
            case {"type": "Fuse"}:
                is_fused = True
            case {"type": "Strip", "content": " ", "start": 1, "stop": 0} if is_fused:
                drops_space = True
            case _:
                return None
    return _Form(replaced=tuple(replaced), byte_tokens=byte_tokens, drops_space=drops_space)


def _steps(state: dict[str, Any]) -> list[dict[str, Any]]:
    if state["type"] != "Sequence":
        return [state]
    return [step for inner in state["decoders"] for step in _steps(inner)]


@cache
def _byte_of_character() -> dict[str, int]:
    """The characters that byte-level vocabularies write bytes with (GPT-2's table)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(rest)}
