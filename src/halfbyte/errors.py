"""Errors a user can act on: what is wrong, what was got, what was expected, what to do."""

from __future__ import annotations

MAX_PART_CHARS = 400


class HalfbyteError(Exception):
    """A mistake in an argument, a file or a request: one line, and exit status 2 in the CLI."""

    def __init__(self, what: str, *, got: object, expected: object, fix: str) -> None:
        self.what = what
        self.got = got
        self.expected = expected
        self.fix = fix
        parts = (what, got, expected, fix)
        what, got, expected, fix = (_line(part) for part in parts)
        super().__init__(f"{what}: got {got}, expected {expected}; {fix}")


def _line(part: object) -> str:
    """One line of bounded length: parts quote files and requests."""
    text = " ".join(str(part)[: 4 * MAX_PART_CHARS].split("\n"))
    return text if len(text) <= MAX_PART_CHARS else text[: MAX_PART_CHARS - 1] + "…"


class ArgumentError(HalfbyteError):
    """An option or argument cannot be used."""


class ModelError(HalfbyteError):
    """A model's architecture or shapes are not ones the runtime can run."""


class SourceError(HalfbyteError):
    """A model file to import is missing, truncated, corrupt or of an unsupported kind."""


class QueueFullError(HalfbyteError):
    """There are more requests than the engine accepts; later there may be fewer."""


class StoppedError(HalfbyteError):
    """The engine does not run: not started, stopped or failed."""


class MachineError(HalfbyteError):
    """The machine lacks what is needed now: file descriptors, processes, memory, disk."""


class FormatError(HalfbyteError):
    """A checkpoint breaks docs/format.md; `name` is the fault's name there."""

    def __init__(self, name: str, what: str, *, got: object, expected: object, fix: str) -> None:
        self.name = name
        super().__init__(f"{name}: {what}", got=got, expected=expected, fix=fix)
