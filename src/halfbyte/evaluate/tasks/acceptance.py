"""Acceptance by draft position, for several draft lengths, under both metrics in circulation.

    proposed          d1   d2   d3   d4
    the target says   t1   t2   t3   t4      (after the proposals before it)
    agree             yes  no   yes  no
    prefix            1    0    0    0       up to the first disagreement: what speeds decoding up
    position          1    0    1    0       each position on its own

Published rates of one kind are not comparable with those of the other.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from halfbyte.api.llm import LLM
from halfbyte.config import Level
from halfbyte.evaluate.data_file import data_settings
from halfbyte.evaluate.subject import Subject
from halfbyte.evaluate.tasks.prompts import read_prompts, require_draft
from halfbyte.evaluate.tasks.task import Item, Metric, Record, ratio
from halfbyte.runtime.protocol import Batch, DraftRun, Runtime, Sampled, Sampling, Speculated
from halfbyte.runtime.stepwise import draft_and_verify_stepwise
from halfbyte.sampling.params import SamplingParams

DRAFT_LENGTHS = (2, 3, 4, 5, 6)
MAX_TOKENS = 128


@dataclass(slots=True)
class Agreements:
    """By draft position: how many were proposed, and how many agreed under either metric."""

    proposed: list[int] = field(default_factory=list)
    prefix: list[int] = field(default_factory=list)
    position: list[int] = field(default_factory=list)
    forwards: int = 0

    def note(self, proposals: list[int], sampled: list[int]) -> None:
        """One verify of one sequence; `sampled[i]` is the target's token where i was proposed."""
        self.forwards += 1
        whole = True
        for i, (ours, theirs) in enumerate(zip(proposals, sampled, strict=True)):
            if i == len(self.proposed):
                for counts in (self.proposed, self.prefix, self.position):
                    counts.append(0)
            whole &= ours == theirs
            self.proposed[i] += 1
            self.prefix[i] += whole
            self.position[i] += ours == theirs


class VerifyRecorder:
    """A runtime that notes what the target sampled at every proposal; all else passes through."""

    def __init__(self, runtime: Runtime, target: Level) -> None:
        self._runtime = runtime
        self._target = target
        self.agreements = Agreements()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)

    def forward_sample(
        self, batch: Batch, level: Level, logit_rows: NDArray[np.int32], sampling: Sampling
    ) -> Sampled:
        """See `Runtime`; a row after another sampled row of its sequence is a proposal."""
        sampled = self._runtime.forward_sample(batch, level, logit_rows, sampling)
        if level == self._target:
            drawn = dict(zip(logit_rows.tolist(), sampled.tokens.tolist(), strict=True))
            starts = batch.row_starts.tolist()
            for begin, end in pairwise(starts):
                rows = [row for row in range(begin, end) if row in drawn]
                if rows:
                    proposals = batch.tokens[rows[0] + 1 : end].tolist()
                    self.agreements.note(proposals, [drawn[row] for row in rows[:-1]])
        return sampled

    def draft_and_verify(
        self, batch: Batch, run: DraftRun, target: Level, sampling: Sampling
    ) -> Speculated:
        """See `Runtime`; as two calls, so that the verify is seen."""
        return draft_and_verify_stepwise(cast(Runtime, self), batch, run, target, sampling)


class Acceptance:
    """Prompts answered greedily, one at a time, once per draft length."""

    name = "acceptance"
    generates = True

    def __init__(self, path: Path, max_tokens: int | None = None) -> None:
        self._path = path
        self._max_tokens = max_tokens or MAX_TOKENS

    @property
    def settings(self) -> Mapping[str, Any]:
        """Prompts, lengths."""
        return data_settings(
            self._path, draft_lengths=list(DRAFT_LENGTHS), max_tokens=self._max_tokens
        )

    def items(self, subject: Subject) -> Sequence[Item]:
        """One per line with `prompt`, `question` or `text`."""
        require_draft(self.name, subject)
        return read_prompts(self._path)

    def run(self, subject: Subject, items: Sequence[Item]) -> Iterator[Record]:
        """Counts by position for every draft length."""
        params = SamplingParams(temperature=0.0, max_tokens=self._max_tokens)
        recorder = VerifyRecorder(subject.llm.model.runtime, subject.level)
        recorded = _with_runtime(subject.llm, cast(Runtime, recorder))
        llms = {n: recorded.with_cascade(recorded.cascade, draft_length=n) for n in DRAFT_LENGTHS}
        as_chat = recorded.model.source.chat_template is not None
        for item in items:
            record: Record = {"id": item.id, "lengths": {}}
            for length, llm in llms.items():
                recorder.agreements = Agreements()
                if as_chat:
                    llm.chat([{"role": "user", "content": item.data["prompt"]}], params)
                else:
                    llm.generate(item.data["prompt"], params)
                counts = recorder.agreements
                record["lengths"][str(length)] = {
                    "proposed": counts.proposed,
                    "prefix": counts.prefix,
                    "position": counts.position,
                    "forwards": counts.forwards,
                }
            yield record

    def metrics(self, records: Sequence[Record]) -> list[Metric]:
        """Both rates and tokens per target forward, with standard errors over prompts."""
        found = []
        for length in DRAFT_LENGTHS:
            counts = [r["lengths"][str(length)] for r in records]
            counts = [c for c in counts if c["proposed"]]
            if not counts:
                continue
            proposed = [sum(c["proposed"]) for c in counts]
            by_position = {
                key: _by_position(counts, key) for key in ("proposed", "prefix", "position")
            }
            for key in ("prefix", "position"):
                totals = [sum(c[key]) for c in counts]
                found.append(
                    ratio(f"{key}@{length}", totals, proposed, unit="tokens", details=by_position)
                )
            emitted = [sum(c["prefix"]) + c["forwards"] for c in counts]
            forwards = [c["forwards"] for c in counts]
            found.append(ratio(f"tau@{length}", emitted, forwards, unit="forwards"))
        return found


def _with_runtime(llm: LLM, runtime: Runtime) -> LLM:
    """The same model and pages through another runtime object."""
    model = copy.copy(llm.model)
    model.runtime = runtime
    return LLM(
        model, llm.cascade, draft_length=llm.options.draft_length, max_batch=llm.options.max_batch
    )


def _by_position(counts: Sequence[Mapping[str, Any]], key: str) -> list[int]:
    longest = max(len(c[key]) for c in counts)
    return [sum(c[key][i] for c in counts if i < len(c[key])) for i in range(longest)]
