"""Speculation changes no token, no logprob and no committed KV, whatever is drafted."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from halfbyte.config import Level
from tests.exactness.driver import Driver, Request
from tests.exactness.plain import PAIRS, SAMPLERS, outcome, plain, prompt_of
from tests.support.runtimes import every_runtime, shared
from tests.support.tiny_models import MODELS

TOKENS = 28


def _speculate(
    kind: str,
    model: str,
    pair: tuple[str, str],
    sampler: str,
    length: int | Callable[[int], int],
    *,
    page_size: int = 16,
    prompt_len: int = 21,
    threads: int = 2,
) -> Request:
    """Decode one sequence speculatively and hold it against plain decoding."""
    runtime = shared(kind, model, page_size=page_size, threads=threads)
    prompt = prompt_of(model, prompt_len, 0)
    request = Request(prompt, TOKENS, SAMPLERS[sampler], draft_length=length)
    Driver(runtime, Level.parse(pair[0]), Level.parse(pair[1])).run([request])
    got = outcome(runtime, request)
    expected = plain(kind, model, pair[0], SAMPLERS[sampler], prompt_len, 0, TOKENS)
    assert got == expected
    return request


@every_runtime
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("model", MODELS)
def test_every_family_and_level_pair_decodes_as_plain(kind: str, model: str, sampler: str) -> None:
    proposed = accepted = 0
    for pair in PAIRS:
        if shared(kind, model).supports(Level.parse(pair[0])):
            request = _speculate(kind, model, pair, sampler, 4)
            proposed += request.proposed
            accepted += request.accepted
    # A draft that is always right, or always wrong, would prove nothing.
    assert 0 < accepted < proposed


@every_runtime
@pytest.mark.parametrize("length", range(9))
@pytest.mark.parametrize("page_size", [16, 32, 64])
def test_draft_length_and_page_size_change_nothing(kind: str, length: int, page_size: int) -> None:
    for prompt_len in (15, 16, 31):  # the first verify rows cross a page, start one, end one
        request = _speculate(
            kind, "llama", PAIRS[0], "greedy", length, page_size=page_size, prompt_len=prompt_len
        )
        assert request.proposed > 0 or length == 0


@every_runtime
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_draft_length_may_change_every_cycle(kind: str, sampler: str) -> None:
    pattern = (3, 0, 8, 1, 5, 0, 2)
    request = _speculate(
        kind, "qwen3-qk-norm", PAIRS[0], sampler, lambda cycle: pattern[cycle % len(pattern)]
    )
    assert 0 < request.accepted < request.proposed


@every_runtime
def test_context_may_cross_an_attention_chunk_while_verifying(kind: str) -> None:
    for prompt_len in (240, 255, 256):
        _speculate(kind, "wide-g128", PAIRS[0], "sampled", 5, prompt_len=prompt_len)


@every_runtime
def test_window_may_slide_over_drafted_positions(kind: str) -> None:
    for prompt_len in (3, 20, 23, 24, 40):  # the window is 24
        _speculate(kind, "mistral-window", PAIRS[0], "greedy", 8, prompt_len=prompt_len)
