"""Multiple choice by likelihood: PIQA, HellaSwag, OpenBookQA, MMLU, CommonsenseQA; no examples.

Each option is a continuation of the question; the likeliest is the answer. `accuracy` takes the
whole log-likelihood, `accuracy_norm` that per byte of the option, so that long ones are not
punished. Where options are many and short (MMLU, CommonsenseQA) the question lists them by letter
and the letter is the continuation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halfbyte.errors import SourceError
from halfbyte.evaluate.data_file import data_settings, read_lines
from halfbyte.evaluate.scorer import Scorer
from halfbyte.evaluate.subject import Subject
from halfbyte.evaluate.tasks.choice_formats import Question, read_question
from halfbyte.evaluate.tasks.task import Item, Metric, Record, mean
from halfbyte.text.codec import TextCodec


@dataclass(frozen=True, slots=True)
class Style:
    """How a question becomes a context; `letters`: options are listed in it."""

    before: str = ""
    after: str = ""
    letters: bool = False


STYLES: Mapping[str, Style] = {
    "piqa": Style("Question: ", "\nAnswer:"),
    "hellaswag": Style(),
    "openbookqa": Style(),
    "mmlu": Style("", "\nAnswer:", letters=True),
    "commonsenseqa": Style("Question: ", "\nAnswer:", letters=True),
}


class MultipleChoice:
    """One data set; the file may have the published form of its lines or a flat one."""

    generates = False

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self._path = path
        self._style = STYLES[name]

    @property
    def settings(self) -> Mapping[str, Any]:
        """The data; there are no examples in the context."""
        return data_settings(self._path, shots=0)

    def items(self, subject: Subject) -> Sequence[Item]:
        """One a question."""
        found = []
        for i, row in enumerate(read_lines(self._path)):
            question = read_question(row)
            if question is None:
                raise SourceError(
                    f"data file {self._path.name}",
                    got=f"record {i} of another form",
                    expected=f"a {self.name} question with options and a label",
                    fix="check the file given to --task",
                )
            found.append(Item(str(i), {"question": question}))
        return found

    def run(self, subject: Subject, items: Sequence[Item]) -> Iterator[Record]:
        """The log-likelihood of every option."""
        codec = subject.llm.model.codec
        with Scorer(subject.llm.model, subject.level) as scorer:
            for item in items:
                question: Question = item.data["question"]
                context, options = continuations(question, self._style)
                scored = [_loglikelihood(scorer, codec, context, text) for text in options]
                yield {
                    "id": item.id,
                    "gold": question.gold,
                    "loglikelihoods": scored,
                    "bytes": [len(text.encode("utf-8", "surrogatepass")) for text in options],
                }

    def metrics(self, records: Sequence[Record]) -> list[Metric]:
        """Share of questions answered right; a tie goes to the first option."""
        plain, normed = [], []
        for r in records:
            per_byte = [s / max(1, n) for s, n in zip(r["loglikelihoods"], r["bytes"], strict=True)]
            plain.append(float(_best(r["loglikelihoods"]) == r["gold"]))
            normed.append(float(_best(per_byte) == r["gold"]))
        metrics = [mean("accuracy", plain)]
        return metrics if self._style.letters else [*metrics, mean("accuracy_norm", normed)]


def continuations(question: Question, style: Style) -> tuple[str, list[str]]:
    """The context, and the texts that may follow it; each begins with a space."""
    text = f"{style.before}{question.text.strip()}"
    if not style.letters:
        return text + style.after, [f" {option.strip()}" for option in question.options]
    letters = [chr(ord("A") + i) for i in range(len(question.options))]
    listed = "".join(f"\n{a}. {o.strip()}" for a, o in zip(letters, question.options, strict=True))
    return text + listed + style.after, [f" {letter}" for letter in letters]


def _loglikelihood(scorer: Scorer, codec: TextCodec, context: str, text: str) -> float:
    """Of `text` after `context`, tokenized together as a reader would meet them."""
    before, whole = codec.encode(context), codec.encode(context + text)
    cut = max(1, min(len(before), len(whole) - 1))
    if len(whole) > scorer.max_tokens:  # the beginning of a long context goes
        cut -= len(whole) - scorer.max_tokens
        whole = whole[-scorer.max_tokens :]
    return math.fsum(scorer.score(whole[: max(1, cut)], whole[max(1, cut) :]).logprobs)


def _best(values: Sequence[float]) -> int:
    return max(range(len(values)), key=lambda i: values[i])
