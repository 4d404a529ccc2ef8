"""Under load every request gets, bit for bit, what it gets alone and plainly on a fresh engine.

Requests of many kinds share the forwards: cascades and targets differ, planners change their minds
at every step, prompts begin alike and hit
the prefix cache, pages run out and sequences are preempted, neighbours are cancelled or run late.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import Mock

import pytest

from halfbyte import LLM, SamplingParams
from halfbyte.api.async_engine import AsyncEngine
from halfbyte.api.options import AsyncOptions
from halfbyte.api.request import Request
from halfbyte.api.results import Completion
from halfbyte.cascade.cascade import Cascade
from halfbyte.cascade.cycle import CycleReport, Turn
from halfbyte.cascade.decoding import Decoding
from halfbyte.engine.engine import Engine
from halfbyte.engine.options import EngineOptions
from halfbyte.proposers.build import Proposers
from tests.support.engines import explicit
from tests.support.talking_model import VOCAB

CASCADES = (
    "w8a16",
    "w4a8 > w8a16",
    "w4a4 > w8a16",
    "ngram > w8a16",
    "ngram > w4a8 > w8a16",
    "w4a8 > w4a16",
    "w4a16",
)
NUM_TOKENS = 400  # 25 pages of 16: a few requests' worth


@dataclass(frozen=True)
class Wanted:
    prompt: tuple[int, ...]
    params: SamplingParams
    cascade: str
    priority: int
    at: int  # step it comes at
    cancelled: int | None  # step it is cancelled at


class RestlessPlanner:
    """Another proposer and another length for every sequence in every cycle."""

    def __init__(self, seed: int, proposers: Proposers, target: str) -> None:
        self._rng = random.Random(seed)
        stacks = ("w4a8", "w4a4", "ngram", "ngram > w4a8")
        self._proposers = [proposers.of(Cascade.parse(f"{s} > {target}")) for s in stacks]

    def begin(self, sequence: Decoding) -> None:
        for proposer in self._proposers:
            assert proposer is not None
            proposer.begin(sequence)

    def plan(self, sequences: Seq[Decoding]) -> list[Turn]:
        rng = self._rng
        return [
            Turn(rng.choice([None, *self._proposers]), rng.randint(0, 6), rng.randint(0, 4))
            for _ in sequences
        ]

    def plain_for(self, sequences: Seq[Decoding]) -> int:
        return self._rng.randint(1, 9)

    def learn(self, sequences: Seq[Decoding], plan: Seq[Turn], report: CycleReport) -> None:
        assert len(sequences) == len(plan) == len(report.outcomes)

    def release(self, sequence: Decoding) -> None:
        for proposer in self._proposers:
            assert proposer is not None
            proposer.release(sequence)


def random_requests(seed: int, count: int) -> list[Wanted]:
    rng = random.Random(seed)
    system = [rng.randrange(VOCAB - 20) for _ in range(70)]
    wanted = []
    for _ in range(count):
        shared = system[: rng.choice([0, 0, 20, 50, 70])]
        own = [rng.randrange(VOCAB - 20) for _ in range(rng.randint(1, 40))]
        params = SamplingParams(
            temperature=rng.choice([0.0, 0.0, 0.7, 1.2]),
            top_p=rng.choice([1.0, 0.9]),
            top_k=rng.choice([0, 30]),
            seed=rng.randrange(2**64),
            max_tokens=rng.randint(1, 60),
            ignore_eos=rng.random() < 0.7,
            stop_token_ids=[rng.randrange(256)] if rng.random() < 0.3 else [],
            repetition_penalty=rng.choice([1.0, 1.0, 1.2]),
            frequency_penalty=rng.choice([0.0, 0.0, 0.5]),
            logprobs=rng.choice([None, None, 2]),
            prompt_logprobs=1 if rng.random() < 0.1 else None,
        )
        at = rng.randint(0, 60)
        priority = rng.choice([0, 0, 0, -1, 1])
        leaves = at + rng.randint(0, 25) if rng.random() < 0.25 else None
        wanted.append(Wanted((*shared, *own), params, rng.choice(CASCADES), priority, at, leaves))
    return wanted


def plainly(wanted: Wanted) -> Wanted:
    """What a burst may hold: no cascade, and logits as they come."""
    unshaped = replace(
        wanted.params,
        repetition_penalty=1.0,
        frequency_penalty=0.0,
        logprobs=None,
        prompt_logprobs=None,
    )
    return replace(wanted, params=unshaped, cascade="w8a16")


def alone(llm: LLM, wanted: Wanted) -> Completion:
    """Plainly at the target, nothing cached, one thread: the reference."""
    plain = str(Cascade.parse(wanted.cascade).plain)
    return llm.with_cascade(plain).generate([list(wanted.prompt)], wanted.params)[0]


def check(got: Completion, plain: Completion) -> None:
    """The same bits; of a request that was cut short, of what there is."""
    count = len(got.token_ids)
    assert got.token_ids == plain.token_ids[:count]
    assert got.logprobs == plain.logprobs[:count]
    assert len(got.fates) == count
    if got.finish_reason != "cancelled":
        assert (got.finish_reason, got.text) == (plain.finish_reason, plain.text)
        assert count == len(plain.token_ids)
        assert got.prompt_logprobs == plain.prompt_logprobs
        assert got.prompt_top_logprobs == plain.prompt_top_logprobs
    if got.top_logprobs is not None:
        assert plain.top_logprobs is not None
        assert got.top_logprobs == plain.top_logprobs[:count]


@pytest.fixture(scope="module")
def reference(talking_model: Path) -> LLM:
    return LLM(
        talking_model,
        "w8a16",
        1,
        num_tokens=512,
        page_size=16,
        burst_seconds=0,
        prefix_cache=False,
    )


@pytest.fixture(scope="module")
def busy(talking_model: Path) -> LLM:
    return LLM(talking_model, "w4a8 > w8a16", 2, num_tokens=NUM_TOKENS, page_size=16, max_rows=96)


@pytest.mark.parametrize("mode", ["fixed", "restless", "plain"])
@pytest.mark.parametrize("seed", range(3))
def test_every_output_equals_its_solo_plain_run(
    reference: LLM, busy: LLM, seed: int, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    options = EngineOptions(
        draft_length=rng.randint(1, 6), max_batch=rng.randint(3, 9), prefill_rows=rng.randint(4, 64)
    )
    wanted = random_requests(seed, 40)
    if mode == "plain":
        wanted = [plainly(w) for w in wanted]
    model = busy.model
    decode = Mock(wraps=model.runtime.decode)
    monkeypatch.setattr(model.runtime, "decode", decode)
    proposers = Proposers(model.runtime)
    planners = explicit(model.runtime, options)
    if mode == "restless":
        planners = lambda cascade: RestlessPlanner(seed, proposers, str(cascade.target))  # noqa: E731
    engine = Engine(model.runtime, model.pool, busy.cascade, options, planners)
    requests = [
        Request(
            model,
            w.prompt,
            w.params,
            follow=i % 2 == 0,
            cascade=Cascade.parse(w.cascade),
            priority=w.priority,
        )
        for i, w in enumerate(wanted)
    ]
    for number in range(20_000):
        for one, request in zip(wanted, requests, strict=True):
            if one.at == number:
                engine.add(request.sequence)
            if one.cancelled == number:
                engine.cancel(request.sequence)
                assert request.sequence.table.num_pages == 0
        if number > 90 and not engine.has_work:
            break
        if engine.has_work:
            engine.step()
    for one, request in zip(wanted, requests, strict=True):
        check(request.completion(), alone(reference, one))
    assert model.pool.num_free == model.pool.num_pages
    assert engine.preemptions > 0
    assert engine.statistics.cached_tokens > 0
    if mode == "plain":
        assert decode.called  # there were bursts
    else:
        assert 0 < engine.statistics.accepted_tokens < engine.statistics.draft_tokens
    assert any(r.sequence.finish_reason == "cancelled" for r in requests)


def test_requests_from_an_event_loop_are_exact_too(reference: LLM, busy: LLM) -> None:
    wanted = random_requests(11, 60)

    async def one(engine: AsyncEngine, want: Wanted) -> Completion:
        await asyncio.sleep(want.at * 0.002)
        stream = engine.submit(
            want.prompt, want.params, cascade=want.cascade, priority=want.priority
        )
        if want.cancelled is not None:
            asyncio.get_running_loop().call_later((want.cancelled - want.at) * 0.002, stream.cancel)
        return await stream.completion()

    async def main() -> list[Completion]:
        async with AsyncEngine(busy, AsyncOptions(max_waiting=100)) as engine:
            return await asyncio.gather(*(one(engine, want) for want in wanted))

    for got, want in zip(asyncio.run(main()), wanted, strict=True):
        check(got, alone(reference, want))
    assert busy.model.pool.num_free == busy.model.pool.num_pages
