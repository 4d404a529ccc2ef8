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
    name: str,
    value: object,
    low: float,
    high: float,
    fix: str,
    *,
    open_low: bool = False,
    open_high: bool = False,
    or_zero: bool = False,
) -> None:
    """Refuse anything but a finite number from `low` to `high`; `open_low`, `open_high`: but not
    these themselves; `or_zero`: 0 too."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        above = low < value if open_low else low <= value
        below = value < high if open_high else value <= high
        if (above and below) or (or_zero and value == 0):
            return
    signs = ["<" if is_open else "<=" for is_open in (open_low, open_high)]
    expected = f"a number, {'0, or ' if or_zero else ''}{low:g} {signs[0]} x {signs[1]} {high:g}"
    raise ArgumentError(name, got=repr(value), expected=expected, fix=fix)


def check_one_of(name: str, value: object, known: Collection[object], fix: str) -> None:
    """Refuse anything but one of a few values, of their very type."""
    if not any(type(value) is type(one) and value == one for one in known):
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
