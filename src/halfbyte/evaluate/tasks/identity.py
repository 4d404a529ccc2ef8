"""Whether a cascade writes, bit for bit, what plain decoding at its target writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from halfbyte.evaluate.data_file import data_settings
from halfbyte.evaluate.subject import Subject
from halfbyte.evaluate.tasks.generation import completions, with_details
from halfbyte.evaluate.tasks.prompts import read_prompts, require_draft
from halfbyte.evaluate.tasks.task import Item, Metric, Record, mean

MAX_TOKENS = 128


class Identity:
    """Prompts continued greedily under the cascade and plainly: tokens, logprobs and ends."""

    name = "identity"
    generates = True

    def __init__(self, path: Path, max_tokens: int | None = None) -> None:
        self._path = path
        self._max_tokens = max_tokens or MAX_TOKENS

    @property
    def settings(self) -> Mapping[str, Any]:
        """Prompts and the limit of a completion."""
        return data_settings(self._path, max_tokens=self._max_tokens)

    def items(self, subject: Subject) -> Sequence[Item]:
        """One per line with `prompt`, `question` or `text`."""
        require_draft(self.name, subject)
        return read_prompts(self._path)

    def run(self, subject: Subject, items: Sequence[Item]) -> Iterator[Record]:
        """Both, in batches."""
        plain = subject.under(subject.llm.cascade.plain)
        pairs = zip(self._completions(subject, items), self._completions(plain, items), strict=True)
        for (_, ours), (_, theirs) in pairs:
            same = all(ours[key] == theirs[key] for key in ("output", "finish"))
            yield {**ours, "identical": same}

    def metrics(self, records: Sequence[Record]) -> list[Metric]:
        """The share of prompts without a difference."""
        found = mean("identical", [float(record["identical"]) for record in records])
        return with_details([found], records)

    def _completions(
        self, subject: Subject, items: Sequence[Item]
    ) -> Iterator[tuple[Item, Record]]:
        def prompt(item: Item) -> str:
            return str(item.data["prompt"])

        return completions(subject, items, prompt, max_tokens=self._max_tokens, stop=())
