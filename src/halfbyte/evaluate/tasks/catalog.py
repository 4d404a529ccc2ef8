"""The tasks by name, and the `NAME=FILE` that picks one."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from halfbyte.errors import ArgumentError
from halfbyte.evaluate.tasks.gsm8k import Gsm8k
from halfbyte.evaluate.tasks.perplexity import DEFAULT_WINDOW, Perplexity
from halfbyte.evaluate.tasks.task import Task


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """What tasks may need besides their data; each reads its own."""

    window: int = DEFAULT_WINDOW  # perplexity, agreement: tokens
    shots: Path | None = None  # gsm8k: worked examples
    max_tokens: int | None = None  # of a completion; None: the task's own


Factory = Callable[[Path, TaskOptions], Task]

TASKS: Mapping[str, Factory] = {
    "perplexity": lambda path, o: Perplexity(path, o.window),
    "gsm8k": lambda path, o: Gsm8k(path, shots=o.shots, max_tokens=o.max_tokens),
}


def parse_task(text: str, options: TaskOptions) -> Task:
    """`gsm8k=test.jsonl`: a task over a data file."""
    name, equals, file = text.partition("=")
    if name not in TASKS:
        near = difflib.get_close_matches(name, TASKS, n=1)
        raise ArgumentError(
            "task",
            got=repr(name),
            expected=", ".join(TASKS),
            fix=f"did you mean {near[0]!r}?" if near else "use one of those",
        )
    if not equals or not file:
        raise ArgumentError(
            "task", got=repr(text), expected=f"{name}=FILE", fix="name the task's data file"
        )
    return TASKS[name](Path(file).expanduser(), options)
