"""A call, the functions on offer, and what a model's text for arguments may be."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from halfbyte.text.calls.feed import Mismatch
from halfbyte.text.calls.values import read_value

# OpenAI's rule for the name of a function: a client that sends a call back passes it.
NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class Call:
    """One call: a name and a JSON object as text."""

    name: str
    arguments: str
    id: str | None = None  # where the form has the model write one


@dataclass(frozen=True, slots=True)
class Offer:
    """Functions that may be called: name -> JSON schema of its parameters."""

    functions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def parameter(self, function: str, name: str) -> Any:
        """The schema of one parameter; None where nothing is said of it."""
        found = self._properties(function).get(name)
        return found if isinstance(found, Mapping) else None

    def parameter_at(self, function: str, index: int) -> str:
        """The name of a parameter given by its place; Mismatch where there is none."""
        names = list(self._properties(function))
        if index >= len(names):
            raise Mismatch
        return str(names[index])

    def _properties(self, function: str) -> Mapping[str, Any]:
        schema = self.functions.get(function)
        found = schema.get("properties") if isinstance(schema, Mapping) else None
        return found if isinstance(found, Mapping) else {}


def make_call(name: object, arguments: object, id: str | None = None) -> Call:
    """Mismatch where these are no name and no arguments; none at all are an empty object."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise Mismatch
    if isinstance(arguments, str):
        arguments = read_value(arguments) if arguments.strip() else None
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise Mismatch
    return Call(name, json.dumps(arguments, ensure_ascii=False, allow_nan=False), id)


def typed(text: str, schema: Any, is_text: bool | None = None) -> Any:
    """A value written without quotes: what its schema says, else what it looks like.

    `is_text`: the form itself says that it is a text, or that it is JSON.
    """
    wanted = {"string"} if is_text else _types(schema)
    if wanted == {"string"} and is_text is not False:
        return text
    try:
        value = read_value(text)
    except Mismatch:
        return text
    if is_text is None and (isinstance(value, str) or (wanted and not wanted & _kinds_of(value))):
        return text
    return value


def _kinds_of(value: object) -> set[str]:
    if isinstance(value, bool):
        return {"boolean"}
    if isinstance(value, int | float):
        return {"number", "integer"}
    kinds = {dict: {"object"}, list: {"array"}, type(None): {"null"}}
    return kinds.get(type(value), set())


def _types(schema: Any, depth: int = 0) -> set[str]:
    """The JSON types a schema names; empty where it leaves them open."""
    if not isinstance(schema, Mapping) or depth > 4:
        return set()
    named = schema.get("type")
    if isinstance(named, str):
        return {named}
    if isinstance(named, list):
        return {name for name in named if isinstance(name, str)}
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if isinstance(values, list) and values:
        return set().union(*({"string"} if isinstance(v, str) else _kinds_of(v) for v in values))
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list):
            each = [_types(part, depth + 1) for part in schema[key]]
            return set().union(*each) if all(each) else set()
    return set()
