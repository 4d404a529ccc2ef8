"""Training batches: pieces of texts, and which of their rows count."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halfbyte.train.features import load_features
from halfbyte.train.texts import Text

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """B pieces of T rows. Row p has the feature of p and the token at p + 1."""

    tokens: NDArray[np.int64]  # [B, T] at p + 1
    features: F32  # [B, T, W] of p
    teachers: F32  # [B, T, hidden] the final norm's output at p + 1: what speaks of p + 2
    counts: NDArray[np.bool_]  # [B, T] whether the model itself wrote the token at p + 2


def frequent_ids(texts: list[Text], vocab_size: int, most: int) -> NDArray[np.int32]:
    """The `most` ids the model writes most often, ascending; unseen ones fill up, low ids first.

    FR-Spec (arXiv 2502.14856), counted on the model's own answers.
    """
    counts: Counter[int] = Counter()
    for text in texts:
        counts.update(text.tokens[text.prompt_len :])
    ranked = sorted(range(vocab_size), key=lambda t: (-counts[t], t))
    return np.sort(np.array(ranked[:most], dtype=np.int32))


class Pieces:
    """All pieces of some texts, in a new order every epoch."""

    def __init__(
        self,
        texts: list[Text],
        paths: list[Path],
        length: int,
        *,
        inputs: int,
        hidden: int,
        seed: int,
    ) -> None:
        """Of a file of features the head reads the first `inputs` columns, its teacher the last
        `hidden`; they overlap where the head reads the final norm's output.
        """
        self._texts, self._paths, self._length = texts, paths, length
        self._inputs, self._hidden = inputs, hidden
        self._seed = seed
        self._held: dict[int, NDArray[np.float16]] = {}
        self._pieces = [
            (i, at)
            for i, text in enumerate(texts)
            for at in range(0, max(1, len(text.tokens) - 2), length)
            if min(at + length, len(text.tokens) - 2) + 2 > text.prompt_len
        ]

    def __len__(self) -> int:
        return len(self._pieces)

    def batch(self, step: int, size: int) -> TrainingBatch:
        """The batch of a step: a function of the step, so that a resumed run goes on alike."""
        per_epoch = max(1, len(self._pieces) // size)
        epoch, number = divmod(step, per_epoch)
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._pieces))
        chosen = [self._pieces[i] for i in order[number * size : (number + 1) * size]]
        return _joined([self._piece(i, at) for i, at in chosen])

    def _piece(self, index: int, at: int) -> TrainingBatch:
        text = self._texts[index]
        if index not in self._held:
            self._held[index] = load_features(self._paths[index])
        values = self._held[index].astype(np.float32)
        end = min(at + self._length, len(text.tokens) - 2)
        rows = self._length
        tokens = np.zeros((1, rows), dtype=np.int64)
        features = np.zeros((1, rows, self._inputs), dtype=np.float32)
        teachers = np.zeros((1, rows, self._hidden), dtype=np.float32)
        counts = np.zeros((1, rows), dtype=np.bool_)
        used = max(0, end - at)
        tokens[0, :used] = text.tokens[at + 1 : end + 1]
        features[0, :used] = values[at:end, : self._inputs]
        teachers[0, :used] = values[at + 1 : end + 1, -self._hidden :]
        counts[0, :used] = np.arange(at + 2, end + 2) >= text.prompt_len
        return TrainingBatch(tokens, features, teachers, counts)


def _joined(pieces: list[TrainingBatch]) -> TrainingBatch:
    return TrainingBatch(
        np.concatenate([p.tokens for p in pieces]),
        np.concatenate([p.features for p in pieces]),
        np.concatenate([p.teachers for p in pieces]),
        np.concatenate([p.counts for p in pieces]),
    )
