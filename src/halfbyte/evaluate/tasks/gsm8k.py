"""GSM8K (arXiv 2110.14168): grade-school word problems, chain of thought (arXiv 2201.11903).

Eight worked examples in the published form (`Q: … A: … The answer is N.`), then the question. The
examples here are our own; `shots` takes others, e.g. the first lines of the data set's training
file. Strict: the number after "The answer is". Flexible: the last number of the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from halfbyte.errors import SourceError
from halfbyte.evaluate.data_file import data_settings, digest, read_lines
from halfbyte.evaluate.subject import Subject
from halfbyte.evaluate.tasks.generation import completions, with_details
from halfbyte.evaluate.tasks.gsm8k_examples import EXAMPLES
from halfbyte.evaluate.tasks.task import Item, Metric, Record, mean

NUM_SHOTS = 8
MAX_TOKENS = 256
_STOP = ("\nQ:", "\n\nQ", "</s>")
_NUMBER = r"-?\$?-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
_STATED = re.compile(rf"[Tt]he (?:final )?answer is:?\s*\**\s*({_NUMBER})")


class Gsm8k:
    """Problems with a number as answer; the file is the published test.jsonl or one like it."""

    name = "gsm8k"
    generates = True

    def __init__(
        self, path: Path, *, shots: Path | None = None, max_tokens: int | None = None
    ) -> None:
        self._path = path
        self._shots = shots
        self._max_tokens = max_tokens or MAX_TOKENS
        self._prefix = _prefix(shots)

    @property
    def settings(self) -> Mapping[str, Any]:
        """Data, examples and the limit of a completion."""
        return data_settings(
            self._path,
            shots=NUM_SHOTS,
            examples=digest(self._shots) if self._shots else "built in",
            max_tokens=self._max_tokens,
        )

    def items(self, subject: Subject) -> Sequence[Item]:
        """One a problem."""
        lines = read_lines(self._path, question=str, answer=(str, int, float))
        return [
            Item(str(i), {"question": row["question"], "answer": _gold(self._path, i, row)})
            for i, row in enumerate(lines)
        ]

    def run(self, subject: Subject, items: Sequence[Item]) -> Iterator[Record]:
        """A chain of thought each, and the two ways to read its answer."""
        found = completions(subject, items, self._prompt, max_tokens=self._max_tokens, stop=_STOP)
        for item, record in found:
            gold = number(str(item.data["answer"]))
            record["strict"] = stated_answer(record["text"]) == gold
            record["flexible"] = last_number(record["text"]) == gold
            yield record

    def metrics(self, records: Sequence[Record]) -> list[Metric]:
        """Share of problems solved."""
        found = [mean(kind, [float(r[kind]) for r in records]) for kind in ("strict", "flexible")]
        return with_details(found, records)

    def _prompt(self, item: Item) -> str:
        return f"{self._prefix}Q: {item.data['question']}\nA:"


def number(text: str) -> Decimal | None:
    """A number as people write it: `1,234`, `$5.50`, `18.`; None for anything else."""
    try:
        value = Decimal(text.strip().replace(",", "").replace("$", "").rstrip("."))
    except InvalidOperation:
        return None
    return value if value.is_finite() else None


def stated_answer(text: str) -> Decimal | None:
    """The number after the first "The answer is"."""
    match = _STATED.search(text)
    return number(match.group(1)) if match else None


def last_number(text: str) -> Decimal | None:
    """The last number anywhere in the text."""
    found = re.findall(_NUMBER, text)
    return number(found[-1]) if found else None


def _gold(path: Path, index: int, row: Mapping[str, Any]) -> str:
    """What stands after `####`, or the whole answer where there is no such mark."""
    text = str(row["answer"]).rpartition("####")[2].strip()
    if number(text) is None:
        raise SourceError(
            f"data file {path.name}",
            got=f"record {index}: answer {text[:40]!r}",
            expected="a number, alone or after ####",
            fix="check the file given to --task",
        )
    return text


def _prefix(shots: Path | None) -> str:
    examples = list(EXAMPLES)
    if shots is not None:
        rows = list(read_lines(shots, question=str, answer=str))[:NUM_SHOTS]
        if len(rows) < NUM_SHOTS:
            raise SourceError(
                f"examples {shots.name}",
                got=f"{len(rows)} lines",
                expected=f"{NUM_SHOTS} with question and answer",
                fix="give more, or leave --shots out",
            )
        examples = [_worked(shots, i, row) for i, row in enumerate(rows)]
    return "".join(
        f"Q: {question}\nA: {thought} The answer is {answer}.\n\n"
        for question, thought, answer in examples
    )


def _worked(path: Path, index: int, row: Mapping[str, Any]) -> tuple[str, str, str]:
    """A training line as an example; the data set's <<3*4=12>> marks are dropped."""
    thought = re.sub(r"<<[^>]*>>", "", row["answer"].rpartition("####")[0]).strip()
    return row["question"], " ".join(thought.split()), _gold(path, index, row)
