"""A JSON schema as llguidance is to follow it: what it cannot enforce is left out, nothing goes on
without end."""

from __future__ import annotations

import re
from typing import Any

from halfbyte.sampling.remarks import remark

# Between the parts of a JSON text: spaces, or a line break and an indentation. Without an end a
# model may write nothing else, and digits without end where no bound is given.
JSON_SPACE = r"[ \t]{1,4}|\r?\n[ \t]{0,28}"
LARGEST_INTEGER = 2**63 - 1024  # an integer and a float
FORMATS = frozenset(  # that are enforced
    ["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"]
)

_SCHEMAS = frozenset(
    ("items", "additionalItems", "additionalProperties", "anyOf", "oneOf", "allOf", "prefixItems")
)
_SCHEMAS_BY_NAME = frozenset(("properties", "patternProperties", "$defs", "definitions"))
_ALTERNATIVES = frozenset(("anyOf", "oneOf"))
_BOUNDS = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
_VALUES = ("const", "enum", "$ref", "allOf", "anyOf", "oneOf", "multipleOf")
_LOOK_AROUND = re.compile(r"(?<!\\)\(\?<?[=!]")


def followable(schema: Any) -> Any:
    """For llguidance, by itself or behind %json; what its `x-guidance` says counts.

    Raises ValueError or RecursionError where it is no schema.
    """
    schema = _followable(schema, may_bound=True)
    if not isinstance(schema, dict):
        return {} if schema is True else schema
    given = schema.get("x-guidance", {})
    if not isinstance(given, dict):
        raise ValueError("x-guidance that is no object")
    options: dict[str, Any] = {"lenient": True}
    if not {"whitespace_flexible", "whitespace_pattern"} & given.keys():
        options["whitespace_pattern"] = JSON_SPACE
    return schema | {"x-guidance": options | given}


def _followable(schema: Any, *, may_bound: bool) -> Any:
    """The schemas within it too; values are left as they are."""
    if isinstance(schema, list):
        return [_followable(item, may_bound=may_bound) for item in schema]
    if not isinstance(schema, dict):
        return schema
    for key in ("const", "enum"):
        _check_exact(schema.get(key))
    result = _without_unknown_patterns(schema)
    for key in _SCHEMAS & result.keys():
        # Parts of an intersection leave bounds to each other.
        result[key] = _followable(result[key], may_bound=may_bound and key != "allOf")
    for key in _SCHEMAS_BY_NAME & result.keys():
        if isinstance(result[key], dict):
            named = result[key].items()
            result[key] = {name: _followable(inner, may_bound=may_bound) for name, inner in named}
    return _bounded(result) if may_bound else result


def _bounded(schema: dict[str, Any]) -> dict[str, Any]:
    """With bounds for an integer that has none of its own, or wider ones than can be followed."""
    if not _is_integer(schema.get("type")) or any(key in schema for key in _VALUES):
        return schema
    own = {key: value for key, value in schema.items() if not _is_beyond(key, value)}
    return {"minimum": -LARGEST_INTEGER, "maximum": LARGEST_INTEGER} | own


def _is_beyond(key: str, value: Any) -> bool:
    if key not in _BOUNDS or type(value) not in (int, float):
        return False
    return bool(value >= LARGEST_INTEGER if "max" in key.lower() else value <= -LARGEST_INTEGER)


def _check_exact(value: Any) -> None:
    """Refuse values that the library, which reads numbers as floats, would write as others."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            _check_exact(inner)
    elif type(value) is int and (value.bit_length() > 1000 or float(value) != value):
        raise ValueError(f"the integer {value}, which is no float; ask for a string instead")


def _is_integer(kind: object) -> bool:
    return kind == "integer" or (
        isinstance(kind, list) and "integer" in kind and "number" not in kind
    )


def _without_unknown_patterns(schema: dict[str, Any]) -> dict[str, Any]:
    """Less patterns with look-ahead where something else says what the text is.

    One that stands alone stays, and the library refuses it.
    """
    result = dict(schema)
    if _looks_around(schema) and schema.get("format") in FORMATS:
        remark(f"a pattern with look-ahead beside the format {schema['format']}")
        del result["pattern"]
    elif "pattern" in schema and schema.get("format") == "time":
        del result["format"]  # libraries' patterns are of times without an offset, which it needs
    for key in _ALTERNATIVES & schema.keys():
        offered = schema[key]
        if isinstance(offered, list):
            kept = [c for c in offered if not _looks_around(c) or c.get("format") in FORMATS]
            if kept and len(kept) < len(offered):
                remark(f"{key}: an alternative whose pattern has look-ahead is never made")
                result[key] = kept
    return result


def _looks_around(schema: Any) -> bool:
    pattern = schema.get("pattern") if isinstance(schema, dict) else None
    return isinstance(pattern, str) and _LOOK_AROUND.search(pattern) is not None
