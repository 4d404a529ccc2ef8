"""Which tokens a level of the target drafts from: the most frequent ones (FR-Spec, 2502.14856).

A draft's output head reads as much as a few layers of a small model. Over a part of the vocabulary
it reads that much less, and misses what is not in it: the target's token is then recovered.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halfbyte.checks import check_int
from halfbyte.errors import ArgumentError, reraise_machine_fault
from halfbyte.text.codec import TextCodec

MOST_BYTES = 1 << 28
CHUNK_CHARS = 1 << 20  # of text encoded at once


@dataclass(frozen=True, slots=True)
class DraftVocabulary:
    """The `size` most frequent tokens, by `source`.

    A `.json` file is a list of ids, most frequent first; any other file is text, whose tokens are
    counted. None, and whatever the source leaves out: lower ids first, which is the order in which
    byte-pair encoding found them worth a token.
    """

    size: int
    source: str | None = None

    def __post_init__(self) -> None:
        fix = "8192 tokens suit a vocabulary of 50 to 150 thousand"
        check_int("draft vocabulary", self.size, 1, 2**31 - 1, fix)

    def ids(
        self, codec: TextCodec | None, vocab_size: int, end_ids: Iterable[int]
    ) -> NDArray[np.int32]:
        """Its tokens in ascending order; those that end a text are always among them."""
        always = sorted(end_ids)
        ranked = [] if self.source is None else _ranking(Path(self.source), codec, vocab_size)
        order = dict.fromkeys([*always, *ranked, *range(vocab_size)])
        size = max(self.size, len(always))
        return np.sort(np.fromiter(order, dtype=np.int32, count=len(order))[:size])


def count_tokens(text: str, codec: TextCodec) -> list[int]:
    """Ids of a text, most frequent first; ties: lower id first."""
    counts: Counter[int] = Counter()
    lines, held = [], 0
    for line in text.splitlines(keepends=True):
        lines.append(line)
        held += len(line)
        if held >= CHUNK_CHARS:
            counts.update(codec.encode("".join(lines), as_chat=True))
            lines, held = [], 0
    counts.update(codec.encode("".join(lines), as_chat=True))
    return sorted(counts, key=lambda token: (-counts[token], token))


def _ranking(path: Path, codec: TextCodec | None, vocab_size: int) -> list[int]:
    text = _read(path)
    if path.suffix != ".json":
        if codec is None:
            raise _bad_source(path, "a text for a model without a tokenizer", "a list of ids")
        return count_tokens(text, codec)
    try:
        ids = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _bad_source(path, str(error)[:200], "a JSON list of token ids") from error
    if not isinstance(ids, list):
        raise _bad_source(path, type(ids).__name__, "a JSON list of token ids")
    for token in ids:
        if type(token) is not int or not 0 <= token < vocab_size:
            raise _bad_source(path, repr(token)[:80], f"ids from 0 to {vocab_size - 1}")
    return ids


def _read(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise _bad_source(path, f"{size} bytes", f"at most {MOST_BYTES}")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reraise_machine_fault(f"draft vocabulary from {path}", error)
        raise _bad_source(path, str(error)[:200], "a readable UTF-8 file") from error


def _bad_source(path: Path, got: str, expected: str) -> ArgumentError:
    return ArgumentError(
        f"draft vocabulary from {path}",
        got=got,
        expected=expected,
        fix="give a text file, or a .json list of ids, most frequent first",
    )
