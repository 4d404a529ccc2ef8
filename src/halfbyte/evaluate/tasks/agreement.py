"""How near a level is to a reference: KL divergence, top-1 agreement, difference in likelihood.

The reference is another level of the same weights or another model with the same vocabulary, such
as the source they were made of. Windows of text as for perplexity, every token but the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfbyte.errors import ArgumentError
from halfbyte.evaluate.data_file import data_settings
from halfbyte.evaluate.scorer import Scorer
from halfbyte.evaluate.subject import Subject
from halfbyte.evaluate.tasks.perplexity import (
    DEFAULT_WINDOW,
    check_window,
    require_windows,
)
from halfbyte.evaluate.tasks.task import Item, Metric, Record, ratio

F64 = NDArray[np.float64]


class Agreement:
    """`reference` gives what a subject is held against; it is called once per run."""

    name = "agreement"
    generates = False

    def __init__(
        self,
        path: Path,
        reference: Callable[[Subject], Subject],
        reference_name: str,
        window: int = DEFAULT_WINDOW,
    ) -> None:
        self._path = path
        self._reference = reference
        self._reference_name = reference_name
        self._window = check_window(window)

    @property
    def settings(self) -> Mapping[str, Any]:
        """The text's digest, the window, the reference."""
        return data_settings(self._path, window=self._window, reference=self._reference_name)

    def items(self, subject: Subject) -> Sequence[Item]:
        """One a window."""
        return require_windows(self._path, subject, self._window)

    def run(self, subject: Subject, items: Sequence[Item]) -> Iterator[Record]:
        """Sums over the tokens of each window."""
        reference = self._reference(subject)
        ours, theirs = subject.llm.model, reference.llm.model
        sizes = [model.runtime.config.vocab_size for model in (ours, theirs)]
        if sizes[0] != sizes[1]:
            raise ArgumentError(
                "reference",
                got=f"a vocabulary of {sizes[1]}",
                expected=f"{sizes[0]}, as the model has",
                fix="name the model's own source, or a level of the same weights",
            )
        with (
            Scorer(ours, subject.level, max_tokens=self._window) as scorer,
            Scorer(theirs, reference.level, max_tokens=self._window) as judge,
        ):
            for item in items:
                yield {"id": item.id, **_compare(scorer, judge, item.data["tokens"])}

    def metrics(self, records: Sequence[Record]) -> list[Metric]:
        """Standard errors over windows."""
        counts = [r["tokens"] for r in records]
        return [
            ratio(name, [r[name] for r in records], counts, unit="tokens")
            for name in ("kl", "top1", "nll_difference")
        ]


def _compare(scorer: Scorer, judge: Scorer, tokens: list[int]) -> dict[str, float]:
    kl = agreed = difference = 0.0
    for (row, ours), (_, theirs) in zip(
        scorer.logits(tokens[:-1], 0), judge.logits(tokens[:-1], 0), strict=True
    ):
        wanted = np.asarray(tokens[row + 1 : row + 1 + len(ours)])
        p, q = log_softmax(theirs), log_softmax(ours)
        kl += float((np.exp(p) * (p - q)).sum(dtype=np.float64))
        agreed += float((ours.argmax(axis=1) == theirs.argmax(axis=1)).sum())
        at = np.arange(len(wanted)), wanted
        difference += float((p[at] - q[at]).sum(dtype=np.float64))
    return {"tokens": len(tokens) - 1, "kl": kl, "top1": agreed, "nll_difference": difference}


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """[R, V], sums in float64."""
    shifted: NDArray[np.float32] = logits - logits.max(axis=1, keepdims=True)
    mass: F64 = np.exp(shifted).sum(axis=1, dtype=np.float64, keepdims=True)
    shifted -= np.log(mass).astype(np.float32)
    return shifted
