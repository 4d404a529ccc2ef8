"""Checks of a description's fields, and how one is read from JSON."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from halfbyte.errors import ModelError

CHECK = "check the model's config"


def check_integer(name: str, value: object, *, least: int = 1, most: int) -> None:
    """Raise ModelError unless a field of a model is an integer of that range."""
    if type(value) is not int or not least <= value <= most:
        raise ModelError(
            name, got=repr(value)[:80], expected=f"an integer, {least} to {most}", fix=CHECK
        )


def check_real(name: str, value: object, *, least: float = 1e-30, most: float) -> None:
    """Raise ModelError unless a field of a model is a number of that range."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and least <= value <= most):  # type: ignore[operator]
        raise ModelError(
            name, got=repr(value)[:80], expected=f"a number, {least} to {most}", fix=CHECK
        )


def check_flags(where: object, *names: str) -> None:
    """Raise ModelError unless those fields are booleans."""
    for name in names:
        value = getattr(where, name)
        if not isinstance(value, bool):
            raise ModelError(name, got=repr(value)[:80], expected="true or false", fix=CHECK)


def check_word(name: str, value: object, known: tuple[str, ...]) -> None:
    """Raise ModelError unless a field is one of some words."""
    if not isinstance(value, str) or value not in known:
        raise ModelError(name, got=repr(value)[:80], expected=" or ".join(known), fix=CHECK)


def mapping(value: Any, name: str) -> dict[str, Any]:
    """An object of JSON."""
    if not isinstance(value, dict):
        raise ModelError(
            name, got=type(value).__name__, expected="a JSON object", fix="check the config"
        )
    return dict(value)


def listed(value: Any, name: str, most: int) -> list[Any]:
    """A list of JSON, neither empty nor long."""
    if not isinstance(value, list | tuple) or not 0 < len(value) <= most:
        got = f"{len(value)} entries" if isinstance(value, list | tuple) else type(value).__name__
        raise ModelError(name, got=got, expected=f"a list of 1 to {most}", fix="check the config")
    return list(value)


def known_keys(cls: type, values: dict[str, Any]) -> dict[str, Any]:
    """`values`, whose keys are fields of `cls`; an unknown key names the nearest known one."""
    known = [f.name for f in fields(cls)]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
            raise ModelError(f"{cls.__name__} key", got=repr(key), expected="a known key", fix=hint)
    return values


def but_defaults(values: Mapping[str, Any], cls: type) -> dict[str, Any]:
    """What is not as it would be anyway, for a description a reader can take in."""
    defaults = {f.name: f.default for f in fields(cls)}
    return {k: v for k, v in values.items() if k not in defaults or v != defaults[k]}
