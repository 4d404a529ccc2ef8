"""Standard streams whatever the terminal is: not UTF-8, closed, full, or gone."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import Any, TextIO

from halfbyte.errors import ArgumentError, told

MAX_INPUT_BYTES = 64 << 20


class OutputError(Exception):
    """What was to be printed could not be written; the text says why."""


class _Output(io.FileIO):
    """Standard output: a failed write is told apart from one to any other file."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(told(error)) from error


class _Messages(io.FileIO):
    """Standard error: messages that find no reader are lost, and nothing fails for it."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def prepare() -> None:
    """Make the three streams usable; called once, before anything is opened or printed."""
    read_only, write_only = os.O_RDONLY, os.O_WRONLY
    # A closed descriptor would be taken by the next file opened, which prints would then reach.
    # Writing to one opened for reading fails as writing to a closed one does.
    for descriptor, flags in ((0, write_only), (1, read_only), (2, write_only)):
        try:
            os.fstat(descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                opened = os.open(os.devnull, flags)
                if opened != descriptor:
                    os.dup2(opened, descriptor)
                    os.close(opened)
    sys.stdout = _text(_Output(1, "w", closefd=False), sys.stdout)
    sys.stderr = _text(_Messages(2, "w", closefd=False), sys.stderr)


def _text(raw: io.FileIO, before: TextIO | None) -> TextIO:
    """A text stream over `raw` with the encoding of `before`; it escapes what that cannot hold."""
    shown = raw.isatty() or raw.fileno() == 2
    unbuffered = bool(getattr(before, "write_through", False))
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(before, "encoding", None) or "utf-8",
        errors="backslashreplace",
        line_buffering=shown,
        write_through=unbuffered,
    )


def abandon(stream: TextIO) -> None:
    """Send what is left in a stream nowhere, so that nothing fails at exit."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def read_standard_input() -> str:
    """All of standard input, as text. Raises ArgumentError."""
    try:
        if sys.stdin is None:
            raise ValueError("it is closed")
        text = sys.stdin.read(MAX_INPUT_BYTES + 1)
        if len(text) > MAX_INPUT_BYTES:
            raise ValueError(f"over {MAX_INPUT_BYTES} characters")
        return text.encode(errors="surrogateescape").decode()
    except (OSError, ValueError) as error:
        raise ArgumentError(
            "standard input",
            got=told(error) if isinstance(error, OSError) else error,
            expected="UTF-8 text",
            fix="pipe a text into the command, or give it as an argument",
        ) from error
