"""Prompts of the tasks that compare a cascade with its target."""

from __future__ import annotations

from pathlib import Path

from halfbyte.errors import ArgumentError, SourceError
from halfbyte.evaluate.data_file import read_lines
from halfbyte.evaluate.subject import Subject
from halfbyte.evaluate.tasks.task import Item

_KEYS = ("prompt", "question", "text")


def read_prompts(path: Path) -> list[Item]:
    """One per line with `prompt`, `question` or `text`."""
    found = []
    for i, row in enumerate(read_lines(path)):
        texts = [row[key] for key in _KEYS if isinstance(row.get(key), str)]
        if not texts:
            raise SourceError(
                f"data file {path.name}",
                got=f"record {i} without a text",
                expected=f"one of {', '.join(_KEYS)}",
                fix="check the file given to --task",
            )
        found.append(Item(str(i), {"prompt": texts[0]}))
    return found


def require_draft(name: str, subject: Subject) -> None:
    """ArgumentError for a cascade in which nothing is proposed."""
    if subject.llm.cascade.draft is None:
        raise ArgumentError(
            name,
            got=f"'{subject.llm.cascade}', which drafts nothing",
            expected="a cascade such as 'w4a8 > w8a16'",
            fix="give --cascade instead of --level",
        )
