"""What levels make of given texts, held against a source or another level, token by token.

Texts are cut into sequences of `LENGTH` tokens, each run from position 0. The source's
log-probabilities are kept on disk, since its `f32` forwards cost more than all others together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfbyte.config import Level
from halfbyte.errors import SourceError
from halfbyte.formats.weights import Weights
from halfbyte.runtime.native import NativeRuntime
from halfbyte.runtime.protocol import Batch
from halfbyte.text.codec import TextCodec

LENGTH = 512
F32_LEVEL = Level(32, 32)
SOURCE = "source"
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
# Fields of the data sets' records that make up a document, in the order they are read.
_FIELDS = (("prompt", "canonical_solution"), ("question", "answer"), ("text",))


@dataclass(slots=True)
class Sums:
    """What one level did over one text; a list has one entry per sequence."""

    nll: list[F64] = field(default_factory=list)  # of the next token, [tokens]
    excess: list[F64] = field(default_factory=list)  # of that over the source's
    kl: list[F64] = field(default_factory=list)  # source to level
    agrees: list[NDArray[np.bool_]] = field(default_factory=list)  # with the level it is held to

    def add(self, got: F32, held_to: F32, source: F32 | None, tokens: NDArray[np.int32]) -> None:
        """One sequence's log-probabilities [L, V] of the level and of what it is held to."""
        index = np.arange(len(tokens) - 1)
        nll = -got[index, tokens[1:]].astype(np.float64)
        self.nll.append(nll)
        self.agrees.append(got.argmax(axis=1) == held_to.argmax(axis=1))
        if source is not None:
            self.excess.append(nll + source[index, tokens[1:]])
            self.kl.append(np.einsum("mv,mv->m", np.exp(source), source - got, dtype=np.float64))

    @property
    def tokens(self) -> int:
        """Tokens scored."""
        return sum(len(part) for part in self.nll)

    def sequences(self) -> dict[str, list[float]]:
        """Metric -> its mean over each sequence; without a source, what needs none."""
        parts: dict[str, Sequence[NDArray[Any]]] = {
            "nll": self.nll,
            "excess_nll": self.excess,
            "kl": self.kl,
            "agreement": self.agrees,
        }
        means = {name: [float(part.mean()) for part in parts[name]] for name in parts}
        return {name: values for name, values in means.items() if values}


class Model:
    """A runtime that runs whole sequences from position 0."""

    def __init__(self, weights: Weights, threads: int) -> None:
        self.runtime = NativeRuntime(
            weights, threads=threads, num_tokens=LENGTH, max_rows=LENGTH, kv_dtype="f16"
        )

    def log_probs(self, tokens: NDArray[np.int32], level: Level) -> F32:
        """Of every next token, [L, V]."""
        pages = np.arange(LENGTH // self.runtime.page_size, dtype=np.int32)[None]
        starts = np.array([0, len(tokens)], np.int32)
        batch = Batch(tokens, starts, np.zeros(1, np.int32), pages)
        logits = self.runtime.forward(batch, level, np.arange(len(tokens), dtype=np.int32))
        logits -= logits.max(axis=1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return logits


class KeptScores:
    """The source's log-probabilities; a sequence seen before is read from `directory`.

    `open_source` is called when the first sequence is missing, so a complete directory spares
    loading the source at all.
    """

    def __init__(self, directory: Path, open_source: Callable[[], Model]) -> None:
        self._directory = directory
        self._open_source = open_source
        self._source: Model | None = None

    def __call__(self, tokens: NDArray[np.int32]) -> F32:
        """[L, V]."""
        path = self._directory / f"{hashlib.sha256(tokens.tobytes()).hexdigest()[:24]}.npy"
        if path.exists():
            kept: F32 = np.load(path, mmap_mode="r")
            return kept
        if self._source is None:
            self._source = self._open_source()
        made = self._source.log_probs(tokens, F32_LEVEL)
        self._directory.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".aside")
        with aside.open("wb") as file:
            np.save(file, made)
        aside.rename(path)
        return made

    def release(self) -> None:
        """Give the source's memory back."""
        self._source = None


def read_text(path: Path, most: int) -> str:
    """The first `most` characters of a text, or of the documents of a JSON lines file."""
    with path.open(encoding="utf-8") as file:
        if path.suffix != ".jsonl":
            return file.read(most)
        parts: list[str] = []
        for line in file:
            parts.append(_document(path, line))
            if sum(map(len, parts)) > most:
                break
    return "\n\n".join(parts)


def _document(path: Path, line: str) -> str:
    record = json.loads(line)
    for names in _FIELDS:
        if all(isinstance(record.get(name), str) for name in names):
            joint = "" if names[0] == "prompt" else "\n"
            return joint.join(record[name] for name in names)
    raise SourceError(
        path.name,
        got=f"a record with {', '.join(record)}",
        expected=" or ".join(" and ".join(names) for names in _FIELDS),
        fix="give a plain text file instead",
    )


def sequences(path: Path, codec: TextCodec, count: int) -> NDArray[np.int32]:
    """[count, LENGTH] from the beginning of a text; fewer where it is short."""
    ids = codec.encode(read_text(path, count * LENGTH * 16))
    count = min(count, len(ids) // LENGTH)
    return np.array(ids[: count * LENGTH], dtype=np.int32).reshape(count, LENGTH)


@dataclass(frozen=True, slots=True)
class Held:
    """A level, and what it is held to: another level of the same weights, or `SOURCE`."""

    level: Level
    to: str


def compare(
    source: Callable[[NDArray[np.int32]], F32],
    model: Model,
    text: Iterable[NDArray[np.int32]],
    held: Sequence[Held],
) -> Mapping[Held, Sums]:
    """Run each level, and what it is held to, over `text` [sequences, L].

    The source runs only where a level is held to it.
    """
    sums = {each: Sums() for each in held}
    for tokens in text:
        wanted = source(tokens) if any(each.to == SOURCE for each in held) else None
        made: dict[str, F32] = {} if wanted is None else {SOURCE: wanted}
        for each in held:
            for level in (str(each.level), each.to):
                if level not in made:
                    made[level] = model.log_probs(tokens, Level.parse(level))
            sums[each].add(made[str(each.level)], made[each.to], wanted, tokens)
    return sums


def mean(sequences: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error, sequences taken as the independent pieces."""
    values = np.array(sequences, dtype=np.float64)
    error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
    return float(values.mean()), error


def mean_difference(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error of paired differences: the same sequences under two schemes."""
    return mean((np.array(ours) - np.array(theirs)).tolist())
