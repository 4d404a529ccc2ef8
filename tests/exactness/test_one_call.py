"""Several forwards in one native call give what as many calls do, bit for bit."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from numpy.typing import NDArray

from halfbyte.config import Level
from halfbyte.runtime.protocol import Batch, Decoded, DraftRun, Runtime, Sampling, SamplingRow
from halfbyte.runtime.stepwise import decode_stepwise, draft_and_verify_stepwise
from tests.support.runtimes import build, every_runtime, every_tier, random_tokens
from tests.support.tiny_models import tiny

LEVELS = ("w8a16", "w4a8", "w4a16", "w8a8")
PROMPTS = (5, 33, 64)  # of a page of 16: inside one, past two, at a border
LENGTH = 20
PAGES = 6  # of each sequence


def _prefill(runtime: Runtime, level: Level, vocab: int) -> tuple[Batch, Sampling]:
    """Prompts are in; each sequence's last token is pending."""
    pages = np.arange(PAGES * len(PROMPTS), dtype=np.int32).reshape(len(PROMPTS), PAGES)
    texts = [random_tokens(n, vocab, seed=n) for n in PROMPTS]
    starts = np.cumsum([0, *(n - 1 for n in PROMPTS)]).astype(np.int32)
    rows = np.concatenate([text[:-1] for text in texts]).astype(np.int32)
    zeros = np.zeros(len(PROMPTS), dtype=np.int32)
    runtime.forward(Batch(rows, starts, zeros, pages), level, np.empty(0, np.int32))
    first = np.array([n - 1 for n in PROMPTS], dtype=np.int32)
    roots = np.array([text[-1] for text in texts], dtype=np.int32)
    batch = Batch(roots, np.arange(len(PROMPTS) + 1, dtype=np.int32), first, pages)
    ways = [
        SamplingRow(),
        SamplingRow(2**63 + 5, 1.0),
        SamplingRow(7, 0.8, top_k=20, top_p=0.9, min_p=0.01),
    ]
    pairs = zip(ways, first.tolist(), strict=True)
    return batch, Sampling.of([way._replace(position=at + 1) for way, at in pairs])


def _runtime(kind: str) -> Runtime:
    return build(kind, tiny("llama"), num_tokens=PAGES * len(PROMPTS) * 16)


def _kv(runtime: Runtime, pages: NDArray[np.int32]) -> bytes:
    layers = range(runtime.config.num_layers)
    parts = [runtime.read_kv(i, int(p)) for i in layers for p in pages.ravel()]
    return b"".join(x.tobytes() for pair in parts for x in pair)


def _same(got: Decoded, expected: Decoded) -> None:
    assert got.tokens.tolist() == expected.tokens.tolist()
    assert got.logprobs.tobytes() == expected.logprobs.tobytes()


@pytest.mark.parametrize("level", LEVELS)
@every_runtime
def test_a_burst_is_as_many_single_steps(kind: str, level: str) -> None:
    found = []
    for burst in (True, False):
        runtime = _runtime(kind)
        at = Level.parse(level)
        batch, sampling = _prefill(runtime, at, runtime.config.vocab_size)
        if burst:
            decoded = runtime.decode(batch, at, LENGTH, sampling)
        else:
            decoded = decode_stepwise(runtime, batch, at, LENGTH, sampling, lambda: False)
        assert decoded.tokens.shape == decoded.logprobs.shape == (len(PROMPTS), LENGTH)
        found.append((decoded, _kv(runtime, batch.page_tables)))
    (got, got_kv), (expected, expected_kv) = found
    _same(got, expected)
    assert got_kv == expected_kv


@every_runtime
def test_an_interrupted_burst_is_the_beginning_of_the_whole(kind: str) -> None:
    level, runtime = Level.parse("w8a16"), _runtime(kind)
    batch, sampling = _prefill(runtime, level, runtime.config.vocab_size)
    whole = runtime.decode(batch, level, LENGTH, sampling)
    runtime.interrupt(wanted=True)
    one = runtime.decode(batch, level, LENGTH, sampling)
    runtime.interrupt(wanted=False)
    _same(one, Decoded(whole.tokens[:, :1], whole.logprobs[:, :1]))
    _same(runtime.decode(batch, level, LENGTH, sampling), whole)


@every_tier
def test_another_thread_ends_a_burst_that_runs(kind: str) -> None:
    level, length = Level.parse("w8a16"), 4000
    runtime = build(kind, tiny("llama"), num_tokens=4096)
    pages = np.arange(256, dtype=np.int32)[None]
    one = np.zeros(1, dtype=np.int32)
    batch = Batch(one + 3, np.array([0, 1], np.int32), one, pages)
    sampling = Sampling.of([SamplingRow(position=1)])
    timer = threading.Timer(0.02, lambda: runtime.interrupt(wanted=True))
    timer.start()
    decoded = runtime.decode(batch, level, length, sampling)
    timer.join()
    runtime.interrupt(wanted=False)
    count = decoded.tokens.shape[1]
    assert 1 <= count < length
    again = runtime.decode(batch, level, count, sampling)
    _same(again, decoded)


@every_tier
def test_a_burst_beyond_its_pages_is_refused(kind: str) -> None:
    runtime = _runtime(kind)
    batch, sampling = _prefill(runtime, Level.parse("w8a16"), runtime.config.vocab_size)
    for length in (0, -1, 60, 4097, 1 << 30):
        with pytest.raises(ValueError, match=r"page|length|token"):
            runtime.decode(batch, Level.parse("w8a16"), length, sampling)


@pytest.mark.parametrize("head", [False, True], ids=["whole head", "reduced head"])
@pytest.mark.parametrize("min_confidence", [0.0, 0.05])
@pytest.mark.parametrize("levels", ["w4a8 > w8a16", "w4a4 > w4a16", "w8a8 > w8a16"])
@every_runtime
def test_a_draft_and_its_verify_are_the_two_calls(
    kind: str, levels: str, min_confidence: float, head: bool
) -> None:
    draft, target = (Level.parse(part) for part in levels.split(" > "))
    lengths = np.array([5, 0, 3], dtype=np.int32)
    found = []
    for one_call in (True, False):
        runtime = _runtime(kind)
        batch, sampling = _prefill(runtime, target, runtime.config.vocab_size)
        number = runtime.reduce_head(np.arange(0, 90, 2, dtype=np.int32)) if head else 0
        run = DraftRun(draft, lengths, min_confidence, number)
        if one_call:
            done = runtime.draft_and_verify(batch, run, target, sampling)
        else:
            done = draft_and_verify_stepwise(runtime, batch, run, target, sampling)
        assert done.draft_seconds > 0
        said = done.tokens, done.logprobs, done.proposed, done.forwards
        found.append((said, _kv(runtime, batch.page_tables)))
    assert found[0] == found[1]
    tokens, _, proposed, forwards = found[0][0]
    assert (proposed[1], len(tokens[1])) == (0, 1)
    assert max(proposed) <= forwards <= 5
    assert all(1 <= len(t) <= n + 1 for t, n in zip(tokens, proposed, strict=True))


@every_tier
def test_the_core_accepts_what_the_rule_in_python_does(kind: str) -> None:
    """Random draws at temperatures where levels often disagree."""
    runtime, target = _runtime(kind), Level.parse("w8a16")
    batch, sampling = _prefill(runtime, target, runtime.config.vocab_size)
    rng = np.random.default_rng(17)
    seen = set()
    for case in range(60):
        lengths = rng.integers(0, 7, len(PROMPTS)).astype(np.int32)
        run = DraftRun(Level.parse(("w4a4", "w4a8")[case % 2]), lengths)
        how = sampling.shifted(0)
        how.rows["temperature"] = rng.uniform(0.2, 2.0, len(PROMPTS))
        how.rows["seed"] = rng.integers(0, 1 << 63, len(PROMPTS))
        done = runtime.draft_and_verify(batch, run, target, how)
        expected = draft_and_verify_stepwise(runtime, batch, run, target, how)
        assert done.tokens == expected.tokens
        assert done.logprobs == expected.logprobs
        seen |= {(n, len(t) - 1) for n, t in zip(done.proposed, done.tokens, strict=True)}
    assert {n for n, accepted in seen if accepted == n} >= {0, 1, 2, 3}
    assert {n - accepted for n, accepted in seen} >= {0, 1, 2, 3}


@every_runtime
def test_where_both_levels_are_one_every_draft_is_right(kind: str) -> None:
    runtime, level = _runtime(kind), Level.parse("w8a16")
    batch, sampling = _prefill(runtime, level, runtime.config.vocab_size)
    plain = runtime.decode(batch, level, 7, sampling).tokens.tolist()
    lengths = [4, 2, 6]
    run = DraftRun(level, np.array(lengths, dtype=np.int32))
    done = runtime.draft_and_verify(batch, run, level, sampling)
    assert done.proposed == lengths
    assert done.forwards == max(lengths)
    assert done.tokens == [row[: n + 1] for row, n in zip(plain, lengths, strict=True)]


@every_tier
def test_a_draft_whose_verify_does_not_fit_is_refused(kind: str) -> None:
    level = Level.parse("w8a16")
    runtime = build(kind, tiny("llama"), num_tokens=PAGES * len(PROMPTS) * 16, max_rows=100)
    batch, sampling = _prefill(runtime, level, runtime.config.vocab_size)
    room = PAGES * 16 - batch.first_positions  # [B] slots from the root on
    for lengths in (room, [-1, 0, 0], [4097, 0, 0], [50, 40, 20], [1, 2], []):
        run = DraftRun(level, np.array(lengths, dtype=np.int32))
        with pytest.raises(ValueError, match=r"page|length|rows"):
            runtime.draft_and_verify(batch, run, level, sampling)
    last = np.array([0, 0, room[2] - 1], dtype=np.int32)
    done = runtime.draft_and_verify(batch, DraftRun(level, last), level, sampling)
    assert done.proposed == last.tolist()
