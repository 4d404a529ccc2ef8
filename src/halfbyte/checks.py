"""Checks of arguments: each says what is wrong, what was got, what was expected, what to do."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection

from halfbyte.errors import ArgumentError


def check_int(name: str, value: object, low: int, high: int, fix: str) -> None:
    """Refuse anything but an integer from `low` to `high`."""
    if type(value) is not int or not low <= value <= high:
        expected = f"an integer, {low} to {high}"
        raise ArgumentError(name, got=repr(value), expected=expected, fix=fix)


def check_number(
    name: str, value: object, low: float, high: float, fix: str, *, open_end: bool = False
) -> None:
    """Refuse anything but a finite number from `low` to `high`; `open_end`: not `high` itself."""
    good = type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
    if not good or not low <= value <= high or (open_end and value == high):  # type: ignore[operator]
        expected = f"a number, {low:g} <= x {'<' if open_end else '<='} {high:g}"
        raise ArgumentError(name, got=repr(value), expected=expected, fix=fix)


def check_choice(name: str, value: object, known: Collection[object], fix: str) -> None:
    """Refuse anything but one of a few values."""
    if value not in known:
        expected = " or ".join(", ".join(map(str, known)).rsplit(", ", 1))
        raise ArgumentError(name, got=repr(value), expected=expected, fix=fix)


def check_known(what: str, name: str, known: Collection[str]) -> None:
    """Refuse a name that is not known, and say which is nearest."""
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise ArgumentError(
            what,
            got=repr(name),
            expected=f"one of {', '.join(known)}",
            fix=f"did you mean {near[0]!r}?" if near else "leave it out",
        )
