"""JSON and Python's literals are read as their own parsers read them, and what is nearly either."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfbyte.text.calls.call import Offer, make_call, typed
from halfbyte.text.calls.feed import Mismatch
from halfbyte.text.calls.values import MAX_DEPTH, read_value

_SCALARS = st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.text()
_JSON = st.recursive(
    _SCALARS | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def _whole(text: str) -> str:
    """Half surrogates are no text."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return _whole(value)
    if isinstance(value, list):
        return [_clean(each) for each in value]
    if isinstance(value, dict):
        return {_whole(key): _clean(each) for key, each in value.items()}
    return value


@given(value=_JSON, ascii=st.booleans(), indent=st.sampled_from([None, 0, 2]))
def test_json_is_read_as_json(value: Any, ascii: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=ascii, indent=indent)
    assert read_value(text) == _clean(value)


@given(value=_JSON)
def test_literals_are_read_as_python_reads_them(value: Any) -> None:
    assert read_value(repr(value)) == _clean(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('"a\nb\tc"', "a\nb\tc"),
        (r'"C:\dir\x"', "C:\\dir\\x"),
        (r'"\u00e9\ud83d\ude00"', "é😀"),
        (r'"\ud83d x"', "\ufffd x"),
        (r'"\u12"', "\\u12"),
        ('"say "hi" now"', 'say "hi" now'),
        ("'it's'", "it's"),
        ("{'a': (1, 2), \"b\": None,}", {"a": [1, 2], "b": None}),
        ("[1, 2,]", [1, 2]),
        ("+5", 5),
        ("5.", 5.0),
        ("", None),
        ("{a: 1}", None),
        ("[1 2]", None),
        ("1e999", None),
        ("NaN", None),
        ("True1", None),
        ('"open', None),
        ("1" * 401, None),
        ("[" * 50_000, None),
        ("[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2), None),
        ("__import__('os')", None),
        ("1 + 1", None),
    ],
)
def test_what_is_nearly_json(text: str, value: Any) -> None:
    if value is None:
        with pytest.raises(Mismatch):
            read_value(text)
    else:
        assert read_value(text) == value


@pytest.mark.parametrize(
    ("text", "schema", "value"),
    [
        ("5", {"type": "string"}, "5"),
        ("5", {"type": "integer"}, 5),
        ("5", None, 5),
        ("5.5", {"type": "number"}, 5.5),
        ("True", {"type": "boolean"}, True),
        ("true", {"type": "integer"}, "true"),
        ("None", {"type": ["string", "null"]}, None),
        ("x", {"type": ["string", "null"]}, "x"),
        ("7", {"anyOf": [{"type": "integer"}, {"type": "null"}]}, 7),
        ("[1]", {"type": "array"}, [1]),
        ('{"a": 1}', {"type": "object"}, {"a": 1}),
        ("[1]", {"enum": ["[1]", "b"]}, "[1]"),
        ("red", {"enum": ["red"]}, "red"),
        ("5", {"const": 5}, 5),
        ("5", {"$ref": "#/$defs/x"}, 5),
        ("a b", {}, "a b"),
        ('"a"', {}, '"a"'),
        ("", {}, ""),
    ],
)
def test_a_value_without_quotes_is_what_its_schema_says(text: str, schema: Any, value: Any) -> None:
    got = typed(text, schema)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, 5, None, "ü"])
def test_what_is_no_name_of_a_function_makes_no_call(name: object) -> None:
    with pytest.raises(Mismatch):
        make_call(name, {})


def test_a_schema_that_is_none_offers_no_parameters() -> None:
    for schema in ({}, {"properties": 3}, {"properties": {"a": 3}}):
        assert Offer({"f": schema}).parameter("f", "a") is None
