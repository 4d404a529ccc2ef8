"""Data files of tasks: JSON lines and plain text, with limits and a digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from halfbyte.errors import SourceError, reraise_machine_fault, told

MAX_BYTES = 1 << 30


def read_bytes(path: Path) -> bytes:
    """The whole file; raises SourceError if it cannot be read or is too large."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise _fault(path, f"{path.stat().st_size} bytes", f"at most {MAX_BYTES}")
        return path.read_bytes()
    except OSError as error:
        reraise_machine_fault(f"data file {path.name}", error)
        raise _fault(path, told(error), "a readable file") from error


def read_text(path: Path) -> str:
    """UTF-8 text."""
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise _fault(path, str(error), "UTF-8 text") from error


def read_lines(path: Path, **fields: type | tuple[type, ...]) -> Iterator[dict[str, Any]]:
    """JSON objects, one per line; each must have `fields` of those types."""
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _fault(path, f"line {number}: {error}"[:200], "JSON lines") from error
        if not isinstance(values, dict):
            raise _fault(
                path, f"line {number}: {type(values).__name__}", "one JSON object per line"
            )
        for name, kind in fields.items():
            if not isinstance(values.get(name), kind):
                got = f"line {number}: {name!r} is {type(values.get(name)).__name__}"
                raise _fault(path, got, f"{name!r} in every line, as the data set has it")
        yield values


def digest(path: Path) -> str:
    """What rows and journals call the data: 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(read_bytes(path)).hexdigest()[:16]


def data_settings(path: Path, **more: Any) -> dict[str, Any]:
    """The settings of a task over one file: its name, its digest, and what else shapes a result."""
    return {"data": path.name, "digest": digest(path), **more}


def _fault(path: Path, got: object, expected: object) -> SourceError:
    return SourceError(
        f"data file {path.name}", got=got, expected=expected, fix="check the file given to --task"
    )
