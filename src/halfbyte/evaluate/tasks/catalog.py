"""The tasks by name, and the `NAME=FILE` that picks one."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from halfbyte.errors import ArgumentError
from halfbyte.evaluate.harness_tasks import HarnessTask, require_harness, task_names
from halfbyte.evaluate.reference import Reference, require_reference
from halfbyte.evaluate.tasks.acceptance import Acceptance
from halfbyte.evaluate.tasks.agreement import Agreement
from halfbyte.evaluate.tasks.identity import Identity
from halfbyte.evaluate.tasks.perplexity import DEFAULT_WINDOW, Perplexity
from halfbyte.evaluate.tasks.task import Task
from halfbyte.importers.cache import expanded


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """What tasks may need besides their data; each reads its own."""

    window: int = DEFAULT_WINDOW  # perplexity, agreement: tokens
    reference: Reference | None = None  # agreement
    shots: Path | None = None  # gsm8k: worked examples
    max_tokens: int | None = None  # of a completion; None: the task's own
    allow_code: bool = False  # humaneval: run what the model writes


Factory = Callable[[Path, TaskOptions], Task]


def _agreement(path: Path, o: TaskOptions) -> Task:
    reference = require_reference(o.reference)
    assert o.reference is not None
    return Agreement(path, reference, o.reference.text, o.window)


# Ours: what no harness has. The others are task files of lm-evaluation-harness.
OURS: Mapping[str, Factory] = {
    "perplexity": lambda path, o: Perplexity(path, o.window),
    "agreement": _agreement,
    "acceptance": lambda path, o: Acceptance(path, o.max_tokens),
    "identity": lambda path, o: Identity(path, o.max_tokens),
}
# Which tasks read an option; one that none of them reads is a mistake, not a wish to be dropped.
_READERS: Mapping[str, tuple[str, ...]] = {
    "window": ("perplexity", "agreement"),
    "reference": ("agreement",),
    "shots": ("gsm8k",),
    "max_tokens": ("acceptance", "identity", "gsm8k", "champ", "humaneval"),
    "allow_code": ("humaneval",),
}


def parse_tasks(texts: Sequence[str], options: TaskOptions) -> list[Task | HarnessTask]:
    """Every `NAME=FILE`; each option must be read by one of them."""
    names = {text.partition("=")[0] for text in texts}
    tasks = [_parse(text, options) for text in texts]
    for option in fields(TaskOptions):
        readers = _READERS[option.name]
        if getattr(options, option.name) != option.default and names.isdisjoint(readers):
            raise ArgumentError(
                f"--{option.name.replace('_', '-')}",
                got=f"only tasks that do not read it ({', '.join(sorted(names))})",
                expected=f"--task {' or '.join(readers)}",
                fix="leave it out, or add such a task",
            )
    return tasks


def _parse(text: str, options: TaskOptions) -> Task | HarnessTask:
    """`gsm8k=test.jsonl`: a task over a data file."""
    name, equals, file = text.partition("=")
    known = [*OURS, *task_names()]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise ArgumentError(
            "task",
            got=repr(name),
            expected=", ".join(known),
            fix=f"did you mean {near[0]!r}?" if near else "use one of those",
        )
    if not equals or not file:
        raise ArgumentError(
            "task", got=repr(text), expected=f"{name}=FILE", fix="name the task's data file"
        )
    path = expanded(file)
    if name in OURS:
        return OURS[name](path, options)
    require_harness(name)
    if name == "humaneval" and not options.allow_code:
        raise ArgumentError(
            "humaneval",
            got="no leave to run what the model writes",
            expected="--allow-code",
            fix="read docs/evaluation.md on the sandbox first",
        )
    is_read = name in _READERS["max_tokens"]
    return HarnessTask(
        name,
        path,
        options.max_tokens if is_read else None,
        options.shots if name in _READERS["shots"] else None,
    )
