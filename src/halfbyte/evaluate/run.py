"""Run tasks on a model: resumable, item by item, into result rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import halfbyte
from halfbyte.checks import check_int
from halfbyte.errors import ArgumentError
from halfbyte.evaluate import provenance, result_rows
from halfbyte.evaluate.harness_tasks import HarnessTask, run_harness
from halfbyte.evaluate.journal import Journal, key_digest
from halfbyte.evaluate.result_rows import ResultRow
from halfbyte.evaluate.subject import Subject
from halfbyte.evaluate.tasks.task import Item, Metric, Task

ROWS_FILE = "rows.jsonl"
ITEMS_DIRECTORY = "items"
Progress = Callable[[str, int, int], None]  # task, items done, items in all


def evaluate(
    task: Task | HarnessTask,
    subject: Subject,
    output: Path,
    *,
    limit: int | None = None,
    progress: Progress = lambda *_: None,
    remark: str = "",
) -> list[ResultRow]:
    """Run what is missing of `task`, append its rows to `output`/rows.jsonl, return them.

    Records go to `output`/items as they come; items that are there already do not run again, so an
    interrupted run goes on and a larger `limit` only adds.
    """
    if limit is not None:
        check_int("limit", limit, 1, 2**31 - 1, "leave it out for all")
    cascade = subject.llm.cascade if task.generates else subject.llm.cascade.plain
    where = provenance.machine(subject.llm)
    key = {
        "task": task.name,
        "settings": dict(task.settings),
        "cascade": str(cascade),
        "draft_length": subject.llm.options.draft_length if cascade.draft is not None else 0,
        "weights": subject.fingerprint,
        "tier": where["tier"],  # levels promise equal bits within a tier only
    }
    if isinstance(task, HarnessTask):
        done = _run_harness(task, subject, output, key, limit, progress)
    else:
        done = _run(task, subject, output, key, limit, progress)
    rows = [
        ResultRow(
            task=task.name,
            metric=metric.name,
            value=metric.value,
            stderr=metric.stderr,
            n=metric.n,
            unit=metric.unit,
            items=done.items,
            total=done.total,
            limit=limit,
            model=subject.name,
            cascade=str(cascade),
            level=str(subject.level),
            settings=dict(task.settings),
            details=dict(metric.details or {}),
            fingerprint=subject.fingerprint,
            run=done.run,
            commit=provenance.commit(),
            version=halfbyte.__version__,
            date=provenance.now(),
            machine=where,
            remark=remark,
        )
        for metric in done.metrics
    ]
    path = output / ROWS_FILE
    known = {row.identity for row in result_rows.read(path)} if path.exists() else set()
    result_rows.append(path, [row for row in rows if row.identity not in known])
    return rows


@dataclass(frozen=True, slots=True)
class _Done:
    """What a run gave, and how much of the data it was."""

    metrics: Sequence[Metric]
    items: int
    total: int
    run: str


def _run(
    task: Task,
    subject: Subject,
    output: Path,
    key: Mapping[str, Any],
    limit: int | None,
    progress: Progress,
) -> _Done:
    everything = task.items(subject)
    _require_items(task.name, len(everything))
    items = subset(everything, limit)
    with Journal(output / ITEMS_DIRECTORY, task.name, key) as journal:
        missing = [item for item in items if item.id not in journal.records]
        done = len(items) - len(missing)
        progress(task.name, done, len(items))
        for record in task.run(subject, missing) if missing else ():
            journal.add(record)
            done += 1
            progress(task.name, done, len(items))
        records = [journal.records[item.id] for item in items]
        return _Done(task.metrics(records), len(items), len(everything), journal.digest)


def _run_harness(
    task: HarnessTask,
    subject: Subject,
    output: Path,
    key: Mapping[str, Any],
    limit: int | None,
    progress: Progress,
) -> _Done:
    docs = [Item(doc["id"], {"number": i}) for i, doc in enumerate(task.docs())]
    _require_items(task.name, len(docs))
    chosen = sorted(item.data["number"] for item in subset(docs, limit))
    run = key_digest(key)
    responses = output / ITEMS_DIRECTORY / f"{task.name}-{run}"
    metrics = run_harness(task, subject, chosen, responses, progress)
    return _Done(metrics, len(chosen), len(docs), run)


def _require_items(name: str, count: int) -> None:
    if not count:
        fix = "check the file given to --task"
        raise ArgumentError(f"task {name}", got="no items", expected="at least 1", fix=fix)


def subset(items: Sequence[Item], limit: int | None) -> list[Item]:
    """The first `limit` items in an order fixed by their ids: spread over the data, and growing.

    None, or as many as there are: all of them.
    """
    if limit is None or limit >= len(items):
        return list(items)
    return sorted(items, key=lambda item: hashlib.sha256(item.id.encode()).digest())[:limit]
