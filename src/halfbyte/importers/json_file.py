"""Read a JSON object from a file of a model, with limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from halfbyte.errors import SourceError, reraise_machine_fault, told
from halfbyte.formats.json_text import read_object

# The index of a model of 90,000 tensors takes 9 MiB, and a JSON value can take 20 times its text.
MAX_BYTES = 16 << 20


def read_json(path: Path, *, limit: int = MAX_BYTES) -> dict[str, Any]:
    """Raises SourceError unless the file holds one JSON object."""
    try:
        return read_object(_read(path, limit))
    except ValueError as error:
        raise _fault(path, str(error)[:200], "a JSON object") from error


def read_text(path: Path, *, limit: int = MAX_BYTES) -> str:
    """UTF-8 text of at most `limit` bytes; raises SourceError."""
    try:
        return _read(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _fault(path, str(error), "UTF-8 text") from error


def _read(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        reraise_machine_fault(f"{path.parent.name}/{path.name}", error)
        raise _fault(path, told(error), "a readable file") from error
    if len(data) > limit:
        raise _fault(path, "a larger file", f"at most {limit} bytes")
    return data


def _fault(path: Path, got: object, expected: object) -> SourceError:
    fix = "the file is missing, damaged or incomplete; download the model again"
    return SourceError(f"{path.parent.name}/{path.name}", got=got, expected=expected, fix=fix)
