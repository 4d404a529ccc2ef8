"""Errors a user can act on: what is wrong, what was got, what was expected, what to do."""

from __future__ import annotations

import errno

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
    """One line of bounded length, safe for a terminal: parts quote files and requests."""
    text = " ".join(str(part)[: 4 * MAX_PART_CHARS].splitlines())
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= MAX_PART_CHARS else text[: MAX_PART_CHARS - 1] + "…"


class ArgumentError(HalfbyteError):
    """An option or argument cannot be used."""


class ContextError(ArgumentError):
    """A prompt is longer than the context, or leaves no room for an answer."""


class ModelError(HalfbyteError):
    """A model's architecture or shapes are not ones the runtime can run."""


class SourceError(HalfbyteError):
    """A model file to import is missing, truncated, corrupt or of an unsupported kind."""


class QueueFullError(HalfbyteError):
    """More requests are waiting than the engine accepts; a later try may succeed."""


class StoppedError(HalfbyteError):
    """The engine does not run: not started, stopped or failed."""


class FormatError(HalfbyteError):
    """A checkpoint breaks docs/format.md; `name` is the fault's name there."""

    def __init__(self, name: str, what: str, *, got: object, expected: object, fix: str) -> None:
        self.name = name
        super().__init__(f"{name}: {what}", got=got, expected=expected, fix=fix)


class MachineError(HalfbyteError):
    """The machine refuses files, memory or space; what was read or written is not at fault."""


_FILES = ("a free file descriptor", "raise the limit of open files (ulimit -n), or close some")
_MEMORY = ("enough memory", "free memory or raise the limit (ulimit -v), or use a smaller model")
_SPACE = ("free space on the disk", "free some space, or choose a directory on another disk")
_DISK = ("a disk that answers", "check the disk; the file itself may be whole")
_MACHINE_FAULTS = {
    errno.EMFILE: _FILES,
    errno.ENFILE: _FILES,
    errno.ENOMEM: _MEMORY,
    errno.EAGAIN: ("a free process or thread", "raise the limit of processes (ulimit -u)"),
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: ("a larger limit of a file's size", "raise it (ulimit -f), or use another disk"),
    errno.EIO: _DISK,
    errno.ESTALE: _DISK,
    errno.EROFS: ("a disk that can be written to", "choose a directory on another disk"),
}


def reraise_machine_fault(what: str, error: BaseException) -> None:
    """Raise MachineError or MemoryError if one of the machine's limits is the cause of `error`.

    Libraries wrap what the system says: causes and contexts are looked through. Called where any
    other fault is to be told as one of the file.
    """
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        if isinstance(found, MemoryError):
            raise found
        if isinstance(found, MachineError):
            raise found
        if isinstance(found, OSError) and found.errno in _MACHINE_FAULTS:
            expected, fix = _MACHINE_FAULTS[found.errno]
            raise MachineError(what, got=told(found), expected=expected, fix=fix) from error
        hidden = found.__suppress_context__
        found = found.__cause__ or (None if hidden else found.__context__)


def told(error: OSError) -> str:
    """What the system says; errors that libraries make up have a text alone."""
    return error.strerror or str(error) or type(error).__name__
