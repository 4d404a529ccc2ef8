"""Likelihoods: equal to the twin's softmax, whatever was read before and however it was cut."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfbyte.api.llm import LLM
from halfbyte.config import Level
from halfbyte.errors import ArgumentError
from halfbyte.evaluate import scorer as scorer_module
from halfbyte.evaluate.scorer import Scorer, log_probabilities
from tests.support.runtimes import all_logits, shared, tiny

W8A16 = Level.parse("w8a16")


@pytest.fixture
def scorer(talking_llm: LLM) -> Iterator[Scorer]:
    with Scorer(talking_llm.model, W8A16, max_tokens=128) as found:
        yield found


def _fresh(llm: LLM, context: list[int], continuation: list[int]) -> np.ndarray:
    with Scorer(llm.model, W8A16, max_tokens=128) as one:
        return one.score(context, continuation).logprobs


def test_log_probabilities_are_those_of_a_float64_softmax() -> None:
    logits = np.random.default_rng(0).normal(0, 30, (64, 131)).astype(np.float32)
    tokens = np.arange(64, dtype=np.int64) % 131
    wide = logits.astype(np.float64)
    shifted = wide - wide.max(axis=1, keepdims=True)
    exact = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(
        log_probabilities(logits, tokens), exact[np.arange(64), tokens], rtol=1e-6, atol=1e-6
    )


def test_scores_are_the_runtimes_own_logits(talking_model: Path) -> None:
    # Its own LLM: `all_logits` writes to the first pages, whichever sequence holds them.
    llm = LLM(talking_model, "w8a16", threads=2, num_tokens=256, page_size=16)
    tokens = list(b"the thin theme")
    with Scorer(llm.model, W8A16, max_tokens=128) as own:
        scores = own.score(tokens[:3], tokens[3:])
    logits = all_logits(llm.model.runtime, np.array(tokens, dtype=np.int32), W8A16)[2:-1]
    expected = log_probabilities(logits, np.array(tokens[3:]))
    assert scores.logprobs.tobytes() == expected.tobytes()
    assert scores.greedy.tolist() == (logits.argmax(axis=1) == tokens[3:]).tolist()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=40), min_size=1, max_size=5))
def test_what_was_scored_before_never_changes_a_score(
    talking_llm: LLM, texts: list[list[int]]
) -> None:
    with Scorer(talking_llm.model, W8A16, max_tokens=128) as one:
        for tokens in texts:
            cut = 1 + len(tokens) // 3
            context, rest = tokens[:cut], tokens[cut:]
            got = one.score(context, rest).logprobs if rest else np.empty(0)
            assert got.tobytes() == (_fresh(talking_llm, context, rest).tobytes() if rest else b"")


def test_the_size_of_the_logit_chunks_never_changes_a_score(
    talking_llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = list(np.random.default_rng(1).integers(0, 256, 90))
    whole = _fresh(talking_llm, tokens[:1], tokens[1:])
    monkeypatch.setattr(scorer_module, "LOGIT_BYTES", 4 * 272 * 7)
    assert _fresh(talking_llm, tokens[:1], tokens[1:]).tobytes() == whole.tobytes()


def test_chunks_stay_within_the_memory_bound(
    scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scorer_module, "LOGIT_BYTES", 4 * 272 * 7)
    sizes = [(row, len(part)) for row, part in scorer.logits(list(range(40)), 10)]
    assert sizes == [(10, 7), (17, 7), (24, 7), (31, 7), (38, 2)]


def test_a_closed_scorer_holds_no_pages(talking_llm: LLM) -> None:
    before = talking_llm.model.pool.num_free
    with Scorer(talking_llm.model, W8A16, max_tokens=100) as one:
        one.score([1], [2])
        assert talking_llm.model.pool.num_free < before
    assert talking_llm.model.pool.num_free == before


def test_a_text_longer_than_the_pages_is_refused(scorer: Scorer) -> None:
    with pytest.raises(ArgumentError, match="1 to 128 tokens"):
        scorer.score([1], [2] * 200)


def test_the_twin_agrees() -> None:
    tokens = np.random.default_rng(2).integers(0, 131, 24).astype(np.int32)
    native = all_logits(shared("native-" + _tier(), "llama"), tokens, W8A16)
    twin = all_logits(shared("reference", "llama"), tokens, W8A16)
    wanted = np.roll(tokens, -1).astype(np.int64)
    np.testing.assert_allclose(
        log_probabilities(native, wanted), log_probabilities(twin, wanted), atol=2e-2
    )
    assert tiny("llama").config.vocab_size == native.shape[1]


def _tier() -> str:
    from tests.support.runtimes import TIERS

    return TIERS[0]
