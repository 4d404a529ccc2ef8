"""What tasks that let the model write have in common: batched greedy completions as records."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from halfbyte.api.results import Completion
from halfbyte.evaluate.subject import Subject
from halfbyte.evaluate.tasks.task import Item, Metric, Record
from halfbyte.sampling.params import SamplingParams


def completions(
    subject: Subject,
    items: Sequence[Item],
    prompt_of: Callable[[Item], str],
    *,
    max_tokens: int,
    stop: tuple[str, ...],
) -> Iterator[tuple[Item, Record]]:
    """Greedy completions, two batches at a time: records are kept while a run goes on."""
    params = SamplingParams(temperature=0.0, max_tokens=max_tokens, stop=stop)
    size = 2 * subject.llm.options.max_batch
    for at in range(0, len(items), size):
        part = items[at : at + size]
        done = subject.llm.generate([prompt_of(item) for item in part], params)
        for item, completion in zip(part, done, strict=True):
            yield item, _record(item, completion)


def _record(item: Item, completion: Completion) -> Record:
    counts = completion.statistics
    return {
        "id": item.id,
        "text": completion.text,
        "tokens": len(completion.token_ids),
        "finish": completion.finish_reason,
        "output": output_digest(completion),
        "cycles": counts.cycles,
        "proposed": counts.proposed_by_position,
        "accepted": counts.accepted_by_position,
    }


def output_digest(completion: Completion) -> str:
    """Equal for equal tokens and logprobs, to the last bit."""
    hashed = hashlib.sha256(np.asarray(completion.token_ids, dtype="<i8").tobytes())
    hashed.update(np.asarray(completion.logprobs, dtype="<f8").tobytes())
    return hashed.hexdigest()[:16]


def common_details(records: Sequence[Record]) -> dict[str, Any]:
    """Of all records: one digest of every output, tokens, cuts, and what was accepted."""
    ordered = sorted(records, key=lambda r: str(r["id"]))
    digest = hashlib.sha256("".join(r["output"] for r in ordered).encode()).hexdigest()[:16]
    proposed, accepted = _summed(records, "proposed"), _summed(records, "accepted")
    details: dict[str, Any] = {
        "output": digest,
        "tokens": sum(r["tokens"] for r in records),
        "cut": sum(r["finish"] == "length" for r in records),
        "tau": sum(r["tokens"] for r in records) / max(1, sum(r["cycles"] for r in records)),
    }
    if proposed:
        details["proposed"], details["accepted"] = proposed, accepted
    return details


def with_details(metrics: list[Metric], records: Sequence[Record]) -> list[Metric]:
    """The metrics, each carrying `common_details`."""
    details = common_details(records)
    return [
        Metric(m.name, m.value, m.stderr, m.n, m.unit, {**details, **(m.details or {})})
        for m in metrics
    ]


def _summed(records: Sequence[Record], key: str) -> list[int]:
    total: Counter[int] = Counter()
    for record in records:
        total.update(dict(enumerate(record[key])))
    return [total[i] for i in range(max(total, default=-1) + 1)]
