"""What a schema becomes before it is followed, and what is said of it."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

import pytest

from halfbyte.errors import ArgumentError
from halfbyte.sampling import grammar
from halfbyte.sampling.grammar import GrammarCompiler, TokenGrammar
from halfbyte.sampling.json_schema import LARGEST_INTEGER, followable
from halfbyte.sampling.params import StructuredOutputs
from tests.sampling.test_schemas import follows
from tests.support.talking_model import EOS, VOCAB
from tests.text.test_codec import CODEC

A_NUMBER = {
    "type": "object",
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def compiler() -> GrammarCompiler:
    pytest.importorskip("llguidance")
    return GrammarCompiler(CODEC, VOCAB, [EOS])


def of(compiler: GrammarCompiler, schema: Any) -> TokenGrammar:
    return compiler.compile(StructuredOutputs(json=json.dumps(schema)))


def _greedy(grammar: TokenGrammar, liked: str, limit: int = 400) -> str:
    """What a model writes that takes these characters wherever it may, the first of them first."""
    tokens: list[int] = []
    order = [*CODEC.encode(liked, as_chat=True), *range(VOCAB)]
    while len(tokens) < limit and not grammar.is_complete:
        mask = grammar.mask()
        assert mask is not None
        token = next(t for t in order if int(mask[t // 32]) >> (t % 32) & 1)
        if token == EOS:
            break
        assert grammar.push(token)
        tokens.append(token)
    return CODEC.decode(tokens)


@pytest.mark.parametrize("liked", ["\n", " ", "\t", "\r\n", "\n \t", " \n\r\t"])
def test_white_space_has_an_end(compiler: GrammarCompiler, liked: str) -> None:
    text = _greedy(of(compiler, A_NUMBER), liked + '"}')
    assert max(map(len, re.findall(r"\s+", text))) <= 30
    assert json.loads(text).keys() == {"a"}


@pytest.mark.parametrize("liked", ["\n", "\t", "\r\n"])  # and no space, which a string may have
def test_white_space_has_an_end_in_any_object(compiler: GrammarCompiler, liked: str) -> None:
    text = _greedy(compiler.compile(StructuredOutputs(json_object=True)), liked + '"}')
    assert max(map(len, re.findall(r"\s+", text))) <= 30
    assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize("digit", "019")
def test_an_integer_has_an_end(compiler: GrammarCompiler, digit: str) -> None:
    text = _greedy(of(compiler, A_NUMBER), digit)
    assert abs(json.loads(text)["a"]) <= LARGEST_INTEGER


def test_bounds_of_a_schema_are_its_own(compiler: GrammarCompiler) -> None:
    for schema, number in (
        ({"type": "integer", "minimum": 0, "maximum": 2**64 - 1}, 2**62),
        ({"type": "integer", "exclusiveMinimum": -(2**70)}, -(2**62)),
        ({"const": 2**62}, 2**62),
        ({"type": "integer", "enum": [2**53 - 1]}, 2**53 - 1),
        ({"type": ["integer", "number"]}, 10**30),
        ({"allOf": [{"type": "integer"}, {"type": "integer"}]}, 10**20),
        ({"type": ["integer", "null"], "maximum": 5}, -7),
    ):
        assert follows(of(compiler, schema), str(number)), schema
    assert not follows(of(compiler, {"type": ["integer", "null"]}), str(10**30))
    assert not follows(of(compiler, {"type": "integer", "maximum": 5}), "6")


def test_what_a_schema_says_of_white_space_counts(compiler: GrammarCompiler) -> None:
    compact = A_NUMBER | {"x-guidance": {"whitespace_flexible": False}}
    assert not follows(of(compiler, compact), '{"a": 1}')
    assert follows(of(compiler, compact), '{"a":1}')
    wide = A_NUMBER | {"x-guidance": {"whitespace_pattern": " *"}}
    assert follows(of(compiler, wide), '{"a":' + " " * 200 + "1}")


def test_values_are_not_read_as_schemas() -> None:
    schema = {
        "properties": {"type": {"const": {"type": "integer", "pattern": "(?=a)"}}},
        "default": {"type": "integer"},
        "enum": [{"anyOf": [{"pattern": "(?=a)"}]}],
    }
    assert {key: followable(schema)[key] for key in schema} == schema


LOOK_AROUND = ["(?=a)b", "(?!a)b", "(?<=a)b", "(?<!a)b"]
KINDS: list[Any] = [
    lambda p: {"regex": p},
    lambda p: {"json": {"type": "string", "pattern": p}},
    lambda p: {"json": {"type": "object", "patternProperties": {p: {}}}},
    lambda p: {"grammar": f"start: /{p}/"},
]


@pytest.mark.parametrize("pattern", LOOK_AROUND)
@pytest.mark.parametrize("kind", KINDS)
def test_look_ahead_is_refused_by_name(compiler: GrammarCompiler, kind: Any, pattern: str) -> None:
    with pytest.raises(ArgumentError, match="without look-ahead and look-behind") as error:
        compiler.compile(StructuredOutputs(**kind(pattern)))
    assert "\n" not in str(error.value)


def test_look_ahead_beside_what_says_the_same_is_left_out(
    compiler: GrammarCompiler, caplog: pytest.LogCaptureFixture
) -> None:
    """Zod's e-mail addresses and pydantic's decimals have it."""
    email = {"type": "string", "format": "email", "pattern": r"^(?!\.)(?!.*\.\.)[a-z.]+@[a-z.]+$"}
    assert follows(of(compiler, email), '"a@b.org"')
    assert not follows(of(compiler, email), '"a"')
    decimal = {"anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^(?!^[-+.]*$)\d*$"}]}
    assert follows(of(compiler, decimal), "1.5")
    assert not follows(of(compiler, decimal), '"1.5"')
    with pytest.raises(ArgumentError, match="look-ahead"):
        of(compiler, {"anyOf": [{"type": "string", "pattern": "^(?=a)"}]})


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "array", "items": {"type": "null"}, "uniqueItems": True}, "uniqueItems"),
        ({"type": "string", "format": "phone-of-a-test"}, "phone-of-a-test"),
        ({"type": "object", "propertyNames": {"maxLength": 3}}, "propertyNames"),
        ({"type": "array", "contains": {"type": "null"}}, "contains"),
        ({"type": "object", "dependentRequired": {"a": ["b"]}}, "dependentRequired"),
        ({"not": {"type": "null"}}, "not"),
        ({"if": {"type": "null"}, "then": False}, "if"),
        ({"oneOf": [{"type": "string"}, {"minLength": 3}]}, "oneOf"),
    ],
)
def test_what_is_not_enforced_is_said_once(
    schema: Any, named: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from halfbyte.sampling import grammar, remarks

    monkeypatch.setattr(grammar, "remark", remarks.Remarks().make)
    compiler = GrammarCompiler(CODEC, VOCAB, [EOS])
    with caplog.at_level(logging.WARNING, logger=remarks.LOGGER):
        for title in range(3):  # schemas that differ, and one that is known already
            of(compiler, schema | {"title": str(title)})
            of(compiler, schema | {"title": str(title)})
    (record,) = caplog.records
    assert named in record.getMessage()
    assert "\n" not in record.getMessage()


def test_remarks_have_an_end(caplog: pytest.LogCaptureFixture) -> None:
    from halfbyte.sampling.remarks import MAX_KEPT, Remarks

    remarks = Remarks()
    for i in range(2 * MAX_KEPT):
        remarks.make(f"no. {i} " + "x" * 10_000)
    assert len(caplog.records) == MAX_KEPT
    assert max(len(record.getMessage()) for record in caplog.records) < 300


NO_SCHEMAS = [
    *("3", '"a"', "null", "[1]", "1e999", "NaN", "{", "false", "[" * 50_000, '"\\ud800"'),
    *('{"type": 3}', '{"x-guidance": 1}', '{"x-guidance": {"no_such": 1}}'),
    *('{"const": "\\ud800"}', '{"$ref": "#"}', '{"$ref": "#/$defs/none"}'),
    '{"type": "integer", "minimum": 2, "maximum": 1}',
    *(
        '{"const": 1' + "0" * 400 + "}",
        '{"const": 9007199254740993}',
        '{"enum": [{"a": [4611686018427387905]}]}',
    ),
]


@pytest.mark.parametrize("schema", NO_SCHEMAS, ids=lambda s: str(s)[:40])
def test_what_is_no_schema_is_one_clear_error(compiler: GrammarCompiler, schema: str) -> None:
    with pytest.raises(ArgumentError, match=r"structured_outputs\.json") as error:
        compiler.compile(StructuredOutputs(json=schema))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


UNBOUNDED = {
    "a large number": {"multipleOf": 2147483648},
    "numbers that have a large multiple in common": {
        "type": "integer",
        "allOf": [{"multipleOf": p} for p in (9973, 9967, 9949, 9941)],
    },
}


@pytest.mark.parametrize("schema", UNBOUNDED.values(), ids=UNBOUNDED.keys())
def test_what_the_library_compiles_without_end_is_refused(
    compiler: GrammarCompiler, schema: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammar, "COMPILE_SECONDS", 1)
    with pytest.raises(ArgumentError, match="takes too long") as caught:
        of(compiler, schema)
    assert len(str(caught.value).splitlines()) == 1
    assert follows(of(compiler, {"type": "integer", "multipleOf": 7}), "14")  # the next is served
