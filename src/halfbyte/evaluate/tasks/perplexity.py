"""Perplexity of a text: windows of equal length, every token of a window but its first scored."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from halfbyte.checks import check_int
from halfbyte.errors import SourceError
from halfbyte.evaluate.data_file import data_settings, read_text
from halfbyte.evaluate.scorer import Scorer
from halfbyte.evaluate.subject import Subject
from halfbyte.evaluate.tasks.task import Item, Metric, Record, ratio

DEFAULT_WINDOW = 512


def windows(text: str, subject: Subject, length: int) -> list[Item]:
    """The text's tokens cut into windows of `length`; a rest shorter than that is left out.

    A model whose texts begin with a BOS token sees one before every window; it is not scored.
    """
    codec = subject.llm.model.codec
    ids = codec.encode(text)
    bos = ids[:1] if codec.bos_id is not None and ids[:1] == [codec.bos_id] else []
    ids = ids[len(bos) :]
    body = length - len(bos)
    starts = range(0, len(ids) - body + 1, body)
    return [Item(f"{i}", {"tokens": [*bos, *ids[at : at + body]]}) for i, at in enumerate(starts)]


def plain_text(path: Path) -> str:
    """A text file; the `<doc …>` lines of extracted Wikipedia articles are left out."""
    return re.sub(r"^</?doc\b[^>\n]*>$\n?", "", read_text(path), flags=re.MULTILINE)


def require_windows(path: Path, subject: Subject, length: int) -> list[Item]:
    """The windows of a text file; raises SourceError if there are none."""
    found = windows(plain_text(path), subject, length)
    if not found:
        raise SourceError(
            f"text {path.name}",
            got=f"less than {length} tokens",
            expected="at least one window",
            fix="give a longer text or a smaller --window",
        )
    return found


def check_window(window: int) -> int:
    """At least two tokens: one to predict from and one to predict."""
    check_int("window", window, 2, 1 << 20, "512 tokens are usual")
    return window


class Perplexity:
    """exp of the mean negative log-likelihood per token."""

    name = "perplexity"
    generates = False

    def __init__(self, path: Path, window: int = DEFAULT_WINDOW) -> None:
        self._path = path
        self._window = check_window(window)

    @property
    def settings(self) -> Mapping[str, Any]:
        """The text's digest and the window."""
        return data_settings(self._path, window=self._window)

    def items(self, subject: Subject) -> Sequence[Item]:
        """One a window."""
        return require_windows(self._path, subject, self._window)

    def run(self, subject: Subject, items: Sequence[Item]) -> Iterator[Record]:
        """Negative log-likelihood of each window."""
        with Scorer(subject.llm.model, subject.level, max_tokens=self._window) as scorer:
            for item in items:
                tokens = item.data["tokens"]
                scores = scorer.score(tokens[:1], tokens[1:])
                yield {
                    "id": item.id,
                    "tokens": len(scores.logprobs),
                    "nll": -math.fsum(scores.logprobs),
                }

    def metrics(self, records: Sequence[Record]) -> list[Metric]:
        """Standard errors over windows; that of the perplexity by the delta method."""
        nll = ratio("nll", [r["nll"] for r in records], [r["tokens"] for r in records])
        value = math.exp(nll.value)
        stderr = None if nll.stderr is None else value * nll.stderr
        return [Metric("perplexity", value, stderr, nll.n, "tokens")]
