"""Penalties, biases, grammars and logprobs do not depend on what drafts: bytes are compared."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfbyte import LLM, SamplingParams
from halfbyte.api.results import Completion
from halfbyte.config import Level
from halfbyte.errors import ArgumentError
from halfbyte.evaluate.exactness import identical
from halfbyte.runtime.reference_sampling import token_logprob, top_tokens
from halfbyte.sampling.params import StructuredOutputs
from tests.support.runtimes import prefix_batch
from tests.support.talking_model import EOS, VOCAB

PROMPTS = ["the thing in there", "a", "0123456789" * 5]
BASE = SamplingParams(temperature=0, max_tokens=32, ignore_eos=True)
SEEDED = replace(BASE, temperature=0.9, seed=7, top_p=0.95)
WANTED: dict[str, dict[str, Any]] = {
    "presence": {"presence_penalty": 1.5},
    "frequency": {"frequency_penalty": 0.7},
    "repetition": {"repetition_penalty": 1.3},
    "all": {"presence_penalty": 0.5, "frequency_penalty": -0.4, "repetition_penalty": 0.8},
    "bias": {"logit_bias": {7: 3.5, 9: -100, 200: 1}},
    "min tokens": {"min_tokens": 20, "stop_token_ids": list(range(0, 250, 3))},
    "allowed": {"allowed_token_ids": list(range(40, 120))},
    "tops": {"logprobs": 5, "prompt_logprobs": 3},
    "everything": {
        "presence_penalty": 0.5,
        "repetition_penalty": 1.2,
        "logit_bias": {50: 2.0},
        "allowed_token_ids": list(range(30, 200)),
        "min_tokens": 8,
        "stop_token_ids": [45, 66],
        "logprobs": 2,
    },
}
DRAFTS = ["w4a8 > w8a16", "w4a4 > w8a16", "ngram > w8a16", "ngram > w4a8 > w8a16"]


def plain_of(llm: LLM) -> LLM:
    return llm.with_cascade(llm.cascade.plain, prefix_cache=False)


def _twin(llm: LLM) -> LLM:
    """A second copy of the model, whose pages a test may write as it likes."""
    return LLM(llm.model.name, "w8a16", 2, num_tokens=512, page_size=16)


def same(ours: list[Completion], plain: list[Completion]) -> bool:
    return identical(ours, plain) and all(
        (a.text, a.top_logprobs, a.prompt_logprobs, a.prompt_top_logprobs)
        == (b.text, b.top_logprobs, b.prompt_logprobs, b.prompt_top_logprobs)
        for a, b in zip(ours, plain, strict=True)
    )


@pytest.mark.parametrize("base", [BASE, SEEDED], ids=["greedy", "seeded"])
@pytest.mark.parametrize("what", WANTED)
def test_no_cascade_changes_what_a_request_gets(
    talking_llm: LLM, what: str, base: SamplingParams
) -> None:
    params = replace(base, **WANTED[what])
    alone = [plain_of(talking_llm).generate(p, params)[0] for p in PROMPTS]
    accepted = 0
    for draft in DRAFTS:
        got = talking_llm.with_cascade(draft).generate(PROMPTS, params)
        assert same(got, alone), draft
        accepted += sum(c.statistics.accepted_tokens for c in got)
    assert accepted > 0


def test_penalties_are_those_of_vllm_over_every_prefix(talking_llm: LLM) -> None:
    """Each token is the argmax of logits adjusted by hand from the text before it."""
    params = replace(
        BASE, presence_penalty=0.6, frequency_penalty=0.3, repetition_penalty=1.4, max_tokens=24
    )
    got = talking_llm.generate(PROMPTS[0], params)[0]
    runtime, prompt = _twin(talking_llm).model.runtime, got.prompt_token_ids
    for i, token in enumerate(got.token_ids):
        text = np.array(prompt + got.token_ids[:i], np.int32)
        last = np.array([len(text) - 1], np.int32)
        batch = prefix_batch(text, runtime.page_size)
        logits = runtime.forward(batch, Level.parse("w8a16"), last)[0]
        counts = np.bincount(got.token_ids[:i], minlength=VOCAB)
        seen = (counts > 0) | np.isin(np.arange(VOCAB), prompt)
        factor = np.float32(1.4)
        logits = np.where(seen, np.where(logits > 0, logits / factor, logits * factor), logits)
        logits = logits - (0.3 * counts + 0.6 * (counts > 0)).astype(np.float32)
        assert token == int(np.argmax(logits))


def test_prompt_logprobs_are_those_of_the_prompt_s_own_tokens(talking_llm: LLM) -> None:
    params = replace(BASE, max_tokens=2, prompt_logprobs=4, logprobs=3)
    narrow = LLM(talking_llm.model.name, num_tokens=512, page_size=16, max_rows=7)
    runtime = _twin(talking_llm).model.runtime
    for llm in (talking_llm, talking_llm, narrow):  # whole, cached pages at hand, in chunks
        got = llm.generate(PROMPTS[2], params)[0]
        ids = np.array(got.prompt_token_ids, np.int32)
        rows = np.arange(len(ids), dtype=np.int32)
        logits = runtime.forward(prefix_batch(ids, 16), Level.parse("w8a16"), rows)
        assert got.prompt_logprobs is not None
        assert got.prompt_top_logprobs is not None
        assert len(got.prompt_logprobs) == len(got.prompt_top_logprobs) == len(ids)
        assert (got.prompt_logprobs[0], got.prompt_top_logprobs[0]) == (None, None)
        expected = [token_logprob(logits[i], int(ids[i + 1])) for i in range(len(ids) - 1)]
        assert np.allclose(np.array(got.prompt_logprobs[1:], float), expected, atol=1e-5)
        for row, tops in zip(logits, got.prompt_top_logprobs[1:], strict=False):
            assert tops is not None
            assert [t for t, _ in tops] == top_tokens(row, 4).tolist()
        assert got.top_logprobs is not None
        assert [len(t) for t in got.top_logprobs] == [3] * len(got.token_ids)
        assert got.cached_tokens == 0


def test_minimum_length_holds_off_end_and_stop_tokens(talking_llm: LLM) -> None:
    free = plain_of(talking_llm).generate(PROMPTS[0], BASE)[0]
    stop = free.token_ids[3]
    held = replace(BASE, stop_token_ids=[stop], min_tokens=10, max_tokens=30)
    got = talking_llm.generate(PROMPTS[0], held)[0]
    assert len(got.token_ids) >= 10
    assert stop not in got.token_ids[:10]


def test_answers_draw_with_consecutive_seeds_and_the_best_are_kept(talking_llm: LLM) -> None:
    four = talking_llm.generate(PROMPTS[0], replace(SEEDED, n=4))[0]
    singles = [talking_llm.generate(PROMPTS[0], replace(SEEDED, seed=7 + i))[0] for i in range(4)]
    assert identical([four, *four.others], singles)
    assert [c.seed for c in (four, *four.others)] == [7, 8, 9, 10]
    assert four.others[0].cached_tokens == (len(four.prompt_token_ids) - 1) // 16 * 16
    best = talking_llm.generate(PROMPTS[0], replace(SEEDED, n=2, best_of=4))[0]
    ranked = sorted(singles, key=lambda c: -c.cumulative_logprob)
    assert identical([best, *best.others], ranked[:2])


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "ok": {"type": "boolean"},
        "n": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "ok", "n"],
    "additionalProperties": False,
}
# Whitespace is free in the grammar; a model of random weights would write nothing else.
COMPACT = SCHEMA | {"x-guidance": {"whitespace_flexible": False}}
GRAMMARS = {
    "json": StructuredOutputs(json=COMPACT),
    "regex": StructuredOutputs(regex=r"[a-f]{3}-[0-9]{2,4}(x|yz)"),
    "choice": StructuredOutputs(choice=["yes, it is", "no", 'not "now"\n']),
    "grammar": StructuredOutputs(grammar='start: item ("," item){2}\nitem: /[0-9]{1,3}/ | "in"'),
}


def conforms(kind: str, text: str) -> bool:
    if kind == "json":
        value = json.loads(text)
        return set(value) == {"name", "ok", "n"} and 0 <= value["n"] <= 99
    if kind == "regex":
        return re.fullmatch(r"[a-f]{3}-[0-9]{2,4}(x|yz)", text) is not None
    if kind == "choice":
        return text in ("yes, it is", "no", 'not "now"\n')
    return re.fullmatch(r"([0-9]{1,3}|in)(,([0-9]{1,3}|in)){2}", text) is not None


@pytest.mark.parametrize("ignore_eos", [False, True])
@pytest.mark.parametrize("kind", GRAMMARS)
def test_a_grammar_holds_for_every_token_whatever_drafts(
    talking_llm: LLM, kind: str, ignore_eos: bool
) -> None:
    pytest.importorskip("llguidance")
    for base in (BASE, SEEDED, replace(SEEDED, temperature=3.0, top_p=1.0, seed=3)):
        params = replace(
            base, structured_outputs=GRAMMARS[kind], max_tokens=120, ignore_eos=ignore_eos
        )
        alone = [plain_of(talking_llm).generate(p, params)[0] for p in PROMPTS]
        for completion in alone:
            assert completion.finish_reason == "stop"
            assert conforms(kind, completion.text), completion.text
        for draft in DRAFTS:
            got = talking_llm.with_cascade(draft).generate(PROMPTS, params)
            assert same(got, alone), draft


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 9), st.integers(0, 8))
def test_a_text_cut_by_its_length_is_the_beginning_of_one_the_grammar_allows(
    talking_llm: LLM, seed: int, max_tokens: int, draft_length: int
) -> None:
    pytest.importorskip("llguidance")
    params = SamplingParams(
        temperature=2.0,
        seed=seed,
        max_tokens=max_tokens,
        structured_outputs=StructuredOutputs(regex="(ab|cd){4}"),
    )
    llm = talking_llm.with_cascade("w4a8 > w8a16", draft_length=draft_length)
    got = llm.generate("the", params)[0]
    assert re.fullmatch("((ab|cd)*[ac]?)", got.text)
    assert len(got.text) <= 8
    assert (got.finish_reason == "stop") == (len(got.text) == 8)
    assert same([got], plain_of(talking_llm).generate("the", params))


HOSTILE = [
    {"json": "{" * 100},
    {"json": '{"type": "nope"}'},
    {"json": '{"anyOf":[' * 300 + "{}" + "]}" * 300},
    {"json": {"$ref": "file:///etc/passwd"}},
    {"json": {"$ref": "https://localhost/schema.json"}},
    {"regex": "("},
    {"grammar": "start: nowhere"},
    {"choice": []},
    {"choice": [""]},
    {"choice": ["x"] * 5000},
    {"regex": "a" * 70000},
    {"regex": "a", "choice": ["b"]},
    {},
    {"json": {"a": float("nan")}},
]


@pytest.mark.parametrize("bad", HOSTILE, ids=lambda b: str(b)[:40])
def test_a_hostile_grammar_is_one_clear_error(talking_llm: LLM, bad: dict[str, Any]) -> None:
    pytest.importorskip("llguidance")
    free = talking_llm.model.pool.num_free
    with pytest.raises(ArgumentError, match="structured_outputs") as error:
        talking_llm.generate(
            "the", replace(BASE, structured_outputs=StructuredOutputs(**bad), max_tokens=4)
        )
    assert len(str(error.value)) < 600
    assert talking_llm.model.pool.num_free == free


@pytest.mark.parametrize(
    "heavy",
    [
        {"regex": "((((((a{1,99}){1,99}){1,99}){1,99}){1,99}){1,99})"},
        {"regex": "(a|aa|aaa|.){1,4000}b"},
        {"grammar": "start: " + '"a" ' * 16000},
        {"grammar": 'start: a\na: a a | "x" | ""'},
    ],
    ids=lambda h: str(h)[:40],
)
def test_a_heavy_grammar_is_bounded_and_leaks_no_token(
    talking_llm: LLM, heavy: dict[str, Any]
) -> None:
    pytest.importorskip("llguidance")
    started = time.monotonic()
    wanted = StructuredOutputs(**heavy)
    try:
        got = talking_llm.generate("the", replace(BASE, structured_outputs=wanted))[0]
    except ArgumentError:
        got = None  # refused: bounded too
    if got is not None:
        assert got.finish_reason in ("length", "stop", "grammar")
        allowed = "ax" if "grammar" in heavy or "aa" not in heavy["regex"] else None
        assert allowed is None or set(got.text) <= set(allowed)
    assert time.monotonic() - started < 20
    assert talking_llm.model.pool.num_free == talking_llm.model.pool.num_pages


def test_an_end_token_ends_a_text_that_may_end(talking_llm: LLM) -> None:
    pytest.importorskip("llguidance")
    params = SamplingParams(
        temperature=0,
        max_tokens=20,
        logit_bias={EOS: 100},
        structured_outputs=StructuredOutputs(regex="[0-9]{2,9}"),
    )
    got = talking_llm.generate("the", params)[0]
    assert re.fullmatch("[0-9]{2}", got.text)
    assert (got.token_ids[-1], got.finish_reason) == (EOS, "stop")
