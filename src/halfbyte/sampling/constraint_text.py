"""A constraint in the forms that llguidance reads; never a path or a name that it would look up."""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any

from halfbyte.sampling.gbnf import is_gbnf, lark_of
from halfbyte.sampling.params import StructuredOutputs

# Between the parts of a JSON text: spaces, or a line break and an indentation. Without an end a
# model may write nothing else, and digits without end where no bound is given.
JSON_SPACE = r"[ \t]{1,4}|\r?\n[ \t]{0,28}"
LARGEST_INTEGER = 2**63 - 1024  # an integer and a float
_MAIN = '%llguidance {"no_forcing": true}\nstart: @text'

_SCHEMAS = frozenset(
    ("items", "additionalItems", "additionalProperties", "anyOf", "oneOf", "prefixItems")
)
_SCHEMAS_BY_NAME = frozenset(("properties", "patternProperties", "$defs", "definitions"))
_BOUNDS = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
_VALUES = ("const", "enum", "$ref", "allOf", "anyOf", "oneOf", "multipleOf")


def library_form(wanted: StructuredOutputs, library: ModuleType) -> str:
    """A list of grammars, as JSON. Raises ValueError, RecursionError or `ArgumentError`."""
    main = {"name": "main", "lark_grammar": _MAIN}
    return json.dumps({"grammars": [main, {"name": "text"} | _grammar(wanted, library)]})


def json_schema(schema: Any) -> Any:
    """A schema as llguidance is to follow it, by itself or behind %json.

    Keywords that it cannot enforce are left out, white space and integers have an end, unless the
    schema's own `x-guidance` and bounds say otherwise.
    """
    schema = _bounded(schema)
    if not isinstance(schema, dict):
        return {} if schema is True else schema
    given = schema.get("x-guidance", {})
    if not isinstance(given, dict):
        raise ValueError("x-guidance that is no object")
    options: dict[str, Any] = {"lenient": True}
    if not {"whitespace_flexible", "whitespace_pattern"} & given.keys():
        options["whitespace_pattern"] = JSON_SPACE
    return schema | {"x-guidance": options | given}


def _grammar(wanted: StructuredOutputs, library: ModuleType) -> dict[str, Any]:
    if wanted.json_object:
        return {"json_schema": json_schema({"type": "object"})}
    if wanted.json is not None:
        return {"json_schema": json_schema(json.loads(str(wanted.json)))}
    if wanted.regex is not None:
        form: str = library.LLMatcher.grammar_from_regex(wanted.regex)
        return {"lark_grammar": json.loads(form)["grammars"][0]["lark_grammar"]}
    if wanted.choice is not None:
        words = " | ".join(json.dumps(word, ensure_ascii=False) for word in wanted.choice)
        return {"lark_grammar": f"start: {words}"}
    text = str(wanted.grammar)
    return {"lark_grammar": lark_of(text) if is_gbnf(text) else text}


def _bounded(schema: Any) -> Any:
    """With bounds for integers that have none of their own; values are left as they are."""
    if isinstance(schema, list):
        return [_bounded(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = dict(schema)
    for key in _SCHEMAS & schema.keys():
        result[key] = _bounded(schema[key])
    for key in _SCHEMAS_BY_NAME & schema.keys():
        if isinstance(schema[key], dict):
            result[key] = {name: _bounded(inner) for name, inner in schema[key].items()}
    if _is_integer(schema.get("type")) and not any(key in schema for key in _VALUES):
        given = [schema[key] for key in _BOUNDS if type(schema.get(key)) in (int, float)]
        if all(abs(bound) < LARGEST_INTEGER for bound in given):
            result = {"minimum": -LARGEST_INTEGER, "maximum": LARGEST_INTEGER} | result
    return result


def _is_integer(kind: object) -> bool:
    return kind == "integer" or (
        isinstance(kind, list) and "integer" in kind and "number" not in kind
    )
