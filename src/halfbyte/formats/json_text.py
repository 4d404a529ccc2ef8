"""JSON of files that programs and strangers write: one object, in Unicode text."""

from __future__ import annotations

import json
import re
from typing import Any

_HALF_OF_A_PAIR = re.compile(r"\\u[dD][89a-fA-F]")


def read_object(data: bytes) -> dict[str, Any]:
    """The object that `data` is. Raises ValueError, whose text says what it is instead."""
    text = data.decode("utf-8-sig")
    try:
        values = json.loads(text)
    except RecursionError as error:
        raise ValueError("lists or objects nested too deeply") from error
    if not isinstance(values, dict):
        raise ValueError(f"{type(values).__name__}, not an object")
    if _HALF_OF_A_PAIR.search(text):
        _check_unicode(values)
    return values


def written(values: dict[str, Any]) -> str:
    """The text of a manifest. What UTF-8 cannot hold, as a file's odd name, becomes `?`."""
    text = json.dumps(values, indent=1, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "replace").decode("utf-8")


def _check_unicode(values: dict[str, Any]) -> None:
    """Escapes can spell half a surrogate pair, which no library and no file takes."""
    try:
        json.dumps(values, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise ValueError(f"half a surrogate pair in a string, {half!a}") from error
