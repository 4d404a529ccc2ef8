"""Constraints hold where a text may be spelled by added tokens, or names control tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from halfbyte import LLM, SamplingParams
from halfbyte.api.results import Completion
from halfbyte.evaluate.exactness import identical
from halfbyte.sampling.params import StructuredOutputs
from tests.support.talking_model import write_talking_model

PLAIN = ("<tool_call>", "</tool_call>", "[INST]", "«é»", " two ", "\n\n", "end")  # as Qwen has some
CONTROL = ("<|im|>", "<think>")
ADDED = (
    *(AddedToken(text, special=False, normalized=False) for text in PLAIN),
    *(AddedToken(text, special=True, normalized=False) for text in CONTROL),
    AddedToken("<sp>", special=False, normalized=False, lstrip=True, rstrip=True),
)
CASCADES = ["w4a8 > w8a16", "w4a4 > w8a16", "ngram > w8a16", "ngram > w4a8 > w8a16"]
texts = st.lists(
    st.sampled_from([*PLAIN, *CONTROL, "<sp>", "<bos>", "x", " ", "the", "日", '"', "\\"]),
    min_size=1,
    max_size=5,
).map("".join)


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    pytest.importorskip("llguidance")
    path = write_talking_model(tmp_path_factory.mktemp("models") / "added", added=ADDED)
    return LLM(path, "w4a8 > w8a16", threads=2, num_tokens=2048, page_size=16)


def _escaped(text: str) -> str:
    return "".join(f"\\x{{{ord(c):x}}}" for c in text)


# Name of a kind -> the constraint to write exactly this text, and how the answer says it.
Kind = Callable[[str], tuple[dict[str, Any], Callable[[str], Any]]]
KINDS: dict[str, Kind] = {
    "choice": lambda text: ({"choice": [text, text + "!"]}, lambda got: got.removesuffix("!")),
    "regex": lambda text: ({"regex": _escaped(text)}, str),
    "lark": lambda text: ({"grammar": f"start: {json.dumps(text)}"}, str),
    "lark terminal": lambda text: ({"grammar": f"start: A\nA: /{_escaped(text)}/"}, str),
    "gbnf": lambda text: ({"grammar": f"root ::= {json.dumps(text)}"}, str),
    "const": lambda text: ({"json": {"const": text}}, json.loads),
    "enum": lambda text: ({"json": {"enum": [text]}}, json.loads),
    "property": lambda text: (
        {
            "json": {
                "type": "object",
                "properties": {text: {"const": [text]}},
                "required": [text],
                "additionalProperties": False,
                "x-guidance": {"whitespace_flexible": False},
            }
        },
        lambda got: json.loads(got)[text][0],
    ),
}


def _answers(llm: LLM, params: SamplingParams) -> tuple[Completion, Completion]:
    """Whole, and streamed."""
    whole = llm.generate("the <tool_call>", params)[0]
    chunks = list(llm.stream("the <tool_call>", params))
    last = chunks[-1].completion
    assert last is not None
    assert "".join(chunk.text for chunk in chunks) == last.text
    return whole, last


@pytest.mark.parametrize("kind", KINDS)
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=texts, seed=st.integers(0, 2**32))
def test_texts_of_added_tokens_are_written_whatever_drafts(
    llm: LLM, kind: str, text: str, seed: int
) -> None:
    constraint, read = KINDS[kind](text)
    params = SamplingParams(
        temperature=1.5,
        seed=seed,
        max_tokens=400,
        structured_outputs=StructuredOutputs(**constraint),
    )
    plain = llm.with_cascade(llm.cascade.plain, prefix_cache=False).generate(
        "the <tool_call>", params
    )
    assert plain[0].finish_reason == "stop"
    assert read(plain[0].text) == text
    for cascade in CASCADES:
        for answer in _answers(llm.with_cascade(cascade), params):
            assert identical([answer], plain)
            assert (answer.text, answer.finish_reason) == (plain[0].text, "stop")


@pytest.mark.parametrize("token", [*PLAIN, *CONTROL, "<sp>"])
def test_a_biased_added_token_is_written_where_it_is_text_and_only_there(
    llm: LLM, token: str
) -> None:
    (wanted,) = [i for i, name in llm.model.codec.vocabulary().items() if name == token]
    params = SamplingParams(
        temperature=0,
        max_tokens=60,
        logit_bias={wanted: 100},
        structured_outputs=StructuredOutputs(choice=[f"x{token}y"]),
    )
    got = llm.generate("the", params)[0]
    assert (got.text, got.finish_reason) == (f"x{token}y", "stop")
    assert (wanted in got.token_ids) == (token not in CONTROL)
    assert not any(map(llm.model.codec.is_control, got.token_ids[:-1]))


def test_a_control_token_stays_out_of_what_only_excludes_text(llm: LLM) -> None:
    """Bytes of its name are no text, and its mark is no byte that may follow."""
    grammar = StructuredOutputs(grammar='start: A\nA: ~"a" & ~"b"')
    params = SamplingParams(temperature=3.0, max_tokens=24, structured_outputs=grammar)
    for seed in range(20):
        got = llm.generate("the", replace(params, seed=seed))[0]
        assert got.finish_reason in ("stop", "length")
        assert not any(map(llm.model.codec.is_control, got.token_ids[:-1]))


def test_a_grammar_may_name_a_control_token(llm: LLM) -> None:
    grammar = StructuredOutputs(grammar='start: "x" <|im|> "y"')
    params = SamplingParams(temperature=0, max_tokens=24, structured_outputs=grammar)
    got = llm.generate("the", params)[0]
    assert (got.text, got.finish_reason) == ("xy", "stop")
    assert any(map(llm.model.codec.is_control, got.token_ids))
