"""HumanEval (arXiv 2107.03374): functions completed greedily and run against the set's own tests.

The completion ends where the published evaluation ends it. Its code is a stranger's: it only runs
in `sandbox`, and only where the user allows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from halfbyte.errors import ArgumentError
from halfbyte.evaluate.data_file import data_settings, read_lines
from halfbyte.evaluate.sandbox import Limits, run_python
from halfbyte.evaluate.subject import Subject
from halfbyte.evaluate.tasks.generation import completions, with_details
from halfbyte.evaluate.tasks.task import Item, Metric, Record, mean

MAX_TOKENS = 384
_STOP = ("\nclass", "\ndef", "\n#", "\nif", "\nprint", "\n```")
_FIELDS = ("task_id", "prompt", "entry_point", "test")


class HumanEval:
    """pass@1 of one greedy completion a problem."""

    name = "humaneval"
    generates = True

    def __init__(
        self, path: Path, *, allow_code: bool = False, max_tokens: int | None = None
    ) -> None:
        if not allow_code:
            raise ArgumentError(
                "humaneval",
                got="no leave to run what the model writes",
                expected="--allow-code",
                fix="read docs/evaluation.md on the sandbox first",
            )
        self._path = path
        self._max_tokens = max_tokens or MAX_TOKENS
        self._limits = Limits()

    @property
    def settings(self) -> Mapping[str, Any]:
        """Data, the limit of a completion, the limits of a run."""
        return data_settings(self._path, max_tokens=self._max_tokens, seconds=self._limits.seconds)

    def items(self, subject: Subject) -> Sequence[Item]:
        """One a problem."""
        rows = read_lines(self._path, **dict.fromkeys(_FIELDS, str))
        return [Item(row["task_id"], {key: row[key] for key in _FIELDS}) for row in rows]

    def run(self, subject: Subject, items: Sequence[Item]) -> Iterator[Record]:
        """A completion each, and what became of its tests."""
        found = completions(
            subject,
            items,
            lambda item: str(item.data["prompt"]),
            max_tokens=self._max_tokens,
            stop=_STOP,
        )
        for item, record in found:
            record["verdict"] = run_python(program(item.data, record["text"]), self._limits)
            yield record

    def metrics(self, records: Sequence[Record]) -> list[Metric]:
        """Share of problems whose tests all pass."""
        passed = [float(r["verdict"] == "passed") for r in records]
        return with_details([mean("pass@1", passed)], records)


def program(problem: Mapping[str, Any], completion: str) -> str:
    """The function and its tests, as published."""
    return (
        f"{problem['prompt']}{completion}\n\n{problem['test']}\n\ncheck({problem['entry_point']})\n"
    )
