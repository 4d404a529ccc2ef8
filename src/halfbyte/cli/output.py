"""Where things are printed: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress

Progress = Callable[[str, int, int], None]


def print_json(values: Mapping[str, object]) -> None:
    """One object, one line; escaped where stdout takes no such characters."""
    text = json.dumps(values, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # a terminal that is not UTF-8, or half a surrogate pair
        text = json.dumps(values, allow_nan=False)
    print(text)


def note(message: str) -> None:
    """A line for people, on stderr; one that finds no reader is lost."""
    with suppress(OSError):
        print(message, file=sys.stderr, flush=True)


@contextmanager
def conversion_progress(verb: str = "converting") -> Iterator[Progress]:
    """A bar on stderr while a model is converted; a single line where stderr is no terminal."""
    bar: Progress | None = None
    with ExitStack() as stack:

        def advance(name: str, done: int, total: int) -> None:
            nonlocal bar
            if bar is None:  # most models have been converted before
                bar = stack.enter_context(_weights_bar(verb, total))
            bar(name, done, total)

        yield advance


@contextmanager
def _weights_bar(verb: str, total: int) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    if not console.is_terminal:
        note(f"{verb} {total / 1e6:.0f} M weights")
        yield lambda *_: None
        return
    columns = (TextColumn(verb), BarColumn(), TextColumn("{task.description}"))
    with Bar(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda name, done, total: bar.update(task, description=name, completed=done)


@contextmanager
def item_progress(label: str) -> Iterator[Progress]:
    """A bar on stderr over the items of a task; nothing where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda *_: None
        return
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)

        def advance(name: str, done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield advance


def gigabytes(count: float) -> str:
    """Bytes for people, in decimal units."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
