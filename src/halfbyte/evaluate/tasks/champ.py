"""CHAMP (arXiv 2406.18321): competition problems, solved step by step, answers compared exactly.

The published evaluation grades solutions by hand or with a larger model. Here an answer counts if,
after normalisation, it equals the reference or one of its stated equivalents: as text, or as a
formula that agrees with it at several values of its variables. That undercounts: a right answer in
other words is wrong here. Compare levels with each other, not with published numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from halfbyte.evaluate.data_file import data_settings, read_lines
from halfbyte.evaluate.formulas import same_formula
from halfbyte.evaluate.subject import Subject
from halfbyte.evaluate.tasks.generation import completions, with_details
from halfbyte.evaluate.tasks.task import Item, Metric, Record, mean

MAX_TOKENS = 512
_STOP = ("\nProblem:", "\n\nProblem")
_PROMPT = (
    "Solve the problem step by step. End with a line that says: The answer is ...\n\n"
    "Problem: {question}\nSolution:"
)
_LAST = re.compile(r"(?s:.*)[Tt]he (?:final )?answer is:?\s*([^\n]+)")
_EQUIVALENTS = re.compile(
    r",? or (?:equivalently|approximately|an equivalent form such as) |\(i\.e\.,", re.IGNORECASE
)


class Champ:
    """Problems with `question` and `answer`."""

    name = "champ"
    generates = True

    def __init__(self, path: Path, max_tokens: int | None = None) -> None:
        self._path = path
        self._max_tokens = max_tokens or MAX_TOKENS

    @property
    def settings(self) -> Mapping[str, Any]:
        """Data and the limit of a solution."""
        return data_settings(self._path, max_tokens=self._max_tokens)

    def items(self, subject: Subject) -> Sequence[Item]:
        """One a problem."""
        rows = read_lines(self._path, question=str, answer=str)
        return [
            Item(str(row.get("id", i)), {"question": row["question"], "answer": row["answer"]})
            for i, row in enumerate(rows)
        ]

    def run(self, subject: Subject, items: Sequence[Item]) -> Iterator[Record]:
        """A solution each."""
        found = completions(
            subject,
            items,
            lambda item: _PROMPT.format(question=item.data["question"]),
            max_tokens=self._max_tokens,
            stop=_STOP,
        )
        for item, record in found:
            record["right"] = is_right(record["text"], item.data["answer"])
            yield record

    def metrics(self, records: Sequence[Record]) -> list[Metric]:
        """Share of problems whose stated answer is the reference."""
        return with_details([mean("exact", [float(r["right"]) for r in records])], records)


def is_right(text: str, reference: str) -> bool:
    """Whether the text's stated answer (of a boxed one, else the last stated) is the reference."""
    boxed = re.findall(r"\\boxed\{([^{}]+)\}", text)
    stated = boxed or _LAST.findall(text)
    if not stated:
        return False
    answer = _normal(stated[-1])
    return any(
        answer == option or same_formula(answer, option)
        for option in map(_normal, _EQUIVALENTS.split(reference))
        if option
    )


def _normal(text: str) -> str:
    """Lower case without LaTeX dress, closing full stop, spaces, or what only frames a value."""
    plain = text.strip().strip("$").lower().replace("\\", "").replace("**", "^")
    plain = re.sub(r"frac\{([^{}]+)\}\{([^{}]+)\}", r"(\1)/(\2)", plain)
    plain = re.sub(r"sqrt\{([^{}]+)\}", r"sqrt(\1)", plain).replace("cdot", "*").replace("$", "")
    plain = re.sub(r"^the limit exists and is equal to | is the only possible value$", "", plain)
    plain = plain.rstrip(". ")
    if plain.count(")") > plain.count("("):  # the rest of a remark in parentheses
        plain = plain.rstrip(")")
    return re.sub(r"\s+", "", plain)
