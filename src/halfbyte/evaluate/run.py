"""Run tasks on a model: resumable, item by item, into result rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import halfbyte
from halfbyte.errors import ArgumentError
from halfbyte.evaluate import provenance, result_rows
from halfbyte.evaluate.journal import Journal
from halfbyte.evaluate.result_rows import ResultRow
from halfbyte.evaluate.subject import Subject
from halfbyte.evaluate.tasks.task import Item, Task

ROWS_FILE = "rows.jsonl"
ITEMS_DIRECTORY = "items"
Progress = Callable[[str, int, int], None]  # task, items done, items in all


def evaluate(
    task: Task,
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
    if limit is not None and limit < 1:
        raise ArgumentError("limit", got=limit, expected="at least 1", fix="leave it out for all")
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
    everything = task.items(subject)
    if not everything:
        fix = "check the file given to --task"
        raise ArgumentError(f"task {task.name}", got="no items", expected="at least 1", fix=fix)
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
        run = journal.digest
    rows = [
        ResultRow(
            task=task.name,
            metric=metric.name,
            value=metric.value,
            stderr=metric.stderr,
            n=metric.n,
            unit=metric.unit,
            items=len(items),
            total=len(everything),
            limit=limit,
            model=subject.name,
            cascade=str(cascade),
            level=str(subject.level),
            settings=dict(task.settings),
            details=dict(metric.details or {}),
            fingerprint=subject.fingerprint,
            run=run,
            commit=provenance.commit(),
            version=halfbyte.__version__,
            date=provenance.now(),
            machine=where,
            remark=remark,
        )
        for metric in task.metrics(records)
    ]
    path = output / ROWS_FILE
    known = {row.identity for row in result_rows.read(path)} if path.exists() else set()
    result_rows.append(path, [row for row in rows if row.identity not in known])
    return rows


def subset(items: Sequence[Item], limit: int | None) -> list[Item]:
    """The first `limit` items in an order fixed by their ids: spread over the data, and growing.

    None, or as many as there are: all of them.
    """
    if limit is None or limit >= len(items):
        return list(items)
    return sorted(items, key=lambda item: hashlib.sha256(item.id.encode()).digest())[:limit]
