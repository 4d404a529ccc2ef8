"""Many requests at once: each gets the output it would get alone, and nothing is held after."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from halfbyte import LLM, SamplingParams
from halfbyte.api.async_engine import AsyncEngine
from halfbyte.api.options import AsyncOptions
from halfbyte.api.results import Chunk
from halfbyte.cascade.verify import Fate
from halfbyte.errors import ArgumentError, QueueFullError, StoppedError
from halfbyte.evaluate.exactness import identical

GREEDY = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)
SEEDED = SamplingParams(temperature=0.8, seed=5, max_tokens=24, ignore_eos=True)
ENDLESS = SamplingParams(temperature=0, max_tokens=400, ignore_eos=True)
PROMPTS = [[5, 6, 7], list(range(90)), [1], [250, 3] * 20]


@asynccontextmanager
async def serving(llm: LLM, options: AsyncOptions | None = None) -> AsyncIterator[AsyncEngine]:
    """An engine that must leave every page free."""
    async with AsyncEngine(llm, options) as engine:
        yield engine
    assert llm.model.pool.num_free == llm.model.pool.num_pages


def run(llm: LLM, body: Callable[[AsyncEngine], Awaitable[None]], **options: int) -> None:
    async def main() -> None:
        async with serving(llm, AsyncOptions(**options) if options else None) as engine:  # type: ignore[arg-type]
            await asyncio.wait_for(body(engine), 60)

    asyncio.run(main())


def test_concurrent_requests_get_what_each_gets_alone(talking_llm: LLM) -> None:
    alone = [
        talking_llm.with_cascade("w8a16").generate([p], how)[0]
        for how in (GREEDY, SEEDED)
        for p in PROMPTS
    ]

    async def body(engine: AsyncEngine) -> None:
        streams = [engine.submit(p, how) for how in (GREEDY, SEEDED) for p in PROMPTS]
        got = await asyncio.gather(*(s.completion() for s in streams))
        assert identical(got, alone)
        assert any(Fate.ACCEPTED in c.fates for c in got)
        assert any(Fate.RECOVERED in c.fates for c in got)

    run(talking_llm, body)


def test_whoever_comes_or_goes_ends_a_burst(
    talking_llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, said = talking_llm.model.runtime, []
    interrupt = runtime.interrupt
    monkeypatch.setattr(
        runtime,
        "interrupt",
        lambda *, wanted: (said.append(wanted), interrupt(wanted=wanted)),
    )

    async def body(engine: AsyncEngine) -> None:
        said.clear()
        stream = engine.submit(PROMPTS[0], ENDLESS, cascade="none")
        assert True in said
        await anext(stream)
        said.clear()
        stream.cancel()
        assert True in said
        assert (await stream.completion()).finish_reason == "cancelled"

    run(talking_llm, body)
    assert said[-1] is False


def test_requests_of_different_cascades_all_finish_and_agree(talking_llm: LLM) -> None:
    async def body(engine: AsyncEngine) -> None:
        cascades = [None, "none", "w4a4 > w8a16", "w8a8 > w8a16", None]
        streams = [engine.submit(PROMPTS[1], SEEDED, cascade=c) for c in cascades]
        got = await asyncio.gather(*(s.completion() for s in streams))
        assert identical(got, [got[0]] * len(got))
        assert {f for f in got[1].fates} == {Fate.PLAIN}

    run(talking_llm, body)


@pytest.mark.parametrize("cascade", ["model:/etc@w4a8 > w8a16", "eagle:/etc > w8a16"])
def test_a_request_cannot_make_the_engine_open_a_file(talking_llm: LLM, cascade: str) -> None:
    async def body(engine: AsyncEngine) -> None:
        with pytest.raises(ArgumentError, match="none, or one of"):
            engine.submit(PROMPTS[0], GREEDY, cascade=cascade)

    run(talking_llm, body)


def test_chunks_add_up_to_the_completion(talking_llm: LLM) -> None:
    async def body(engine: AsyncEngine) -> None:
        chunks: list[Chunk] = [c async for c in engine.submit(PROMPTS[0], SEEDED)]
        whole = chunks[-1].completion
        assert whole is not None
        assert [c.completion for c in chunks[:-1]] == [None] * (len(chunks) - 1)
        assert [t for c in chunks for t in c.token_ids] == whole.token_ids
        assert [x for c in chunks for x in c.logprobs] == whole.logprobs
        assert [f for c in chunks for f in c.fates] == whole.fates
        assert "".join(c.text for c in chunks) == whole.text

    run(talking_llm, body)


def test_a_cancelled_request_ends_soon_and_says_so(talking_llm: LLM) -> None:
    async def body(engine: AsyncEngine) -> None:
        stream, other = engine.submit(PROMPTS[0], ENDLESS), engine.submit(PROMPTS[1], GREEDY)
        await anext(stream)
        stream.cancel()
        stream.cancel()
        got = await stream.completion()
        assert got.finish_reason == "cancelled"
        assert 0 < len(got.token_ids) < ENDLESS.max_tokens
        assert len(got.token_ids) == len(got.logprobs) == len(got.fates)
        assert identical([await other.completion()], talking_plain(engine.llm, PROMPTS[1], GREEDY))

    run(talking_llm, body)


def test_a_cancelled_request_frees_its_pages_within_one_step(talking_llm: LLM) -> None:
    async def body(engine: AsyncEngine) -> None:
        for _ in range(5):
            stream = engine.submit(PROMPTS[0], ENDLESS)
            await anext(stream)
            stream.cancel()
            before = engine.snapshot().steps
            await stream.completion()
            assert engine.snapshot().steps - before <= 1  # the one that was under way
            assert engine.llm.model.pool.num_free == engine.llm.model.pool.num_pages

    run(talking_llm, body)


def talking_plain(llm: LLM, prompt: list[int], how: SamplingParams) -> list[object]:
    """Plain tokens of one prompt, from a second copy of the model."""
    twin = LLM(llm.model.name, "w8a16", 1, num_tokens=1024, page_size=16)
    return list(twin.generate([prompt], how))


def test_a_deadline_ends_waiting_and_running_requests(talking_llm: LLM) -> None:
    async def body(engine: AsyncEngine) -> None:
        past = engine.submit(PROMPTS[0], ENDLESS, deadline=time.monotonic() - 1)
        soon = engine.submit(PROMPTS[0], ENDLESS, deadline=time.monotonic() + 0.05)
        ended = await past.completion()
        assert (ended.finish_reason, ended.token_ids) == ("deadline", [])
        assert (await soon.completion()).finish_reason in ("deadline", "length")

    run(talking_llm, body)


def test_a_full_queue_is_a_named_error_and_room_comes_back(talking_llm: LLM) -> None:
    async def body(engine: AsyncEngine) -> None:
        limit = engine.llm.options.max_batch + 2
        streams = [engine.submit(PROMPTS[0], GREEDY) for _ in range(limit)]
        with pytest.raises(QueueFullError, match="try again"):
            engine.submit(PROMPTS[0], GREEDY)
        await asyncio.gather(*(s.completion() for s in streams))
        await engine.submit(PROMPTS[0], GREEDY).completion()
        assert engine.snapshot().refused == 1
        assert engine.snapshot().requests == limit + 1

    run(talking_llm, body, max_waiting=2)


def test_stopping_cancels_what_is_left_and_refuses_more(talking_llm: LLM) -> None:
    async def main() -> None:
        engine = AsyncEngine(talking_llm)
        with pytest.raises(StoppedError):
            engine.submit(PROMPTS[0], GREEDY)
        await engine.start()
        streams = [engine.submit(p, ENDLESS) for p in PROMPTS]
        await engine.stop()
        assert [(await s.completion()).finish_reason for s in streams] == ["cancelled"] * 4
        with pytest.raises(StoppedError):
            engine.submit(PROMPTS[0], GREEDY)

    asyncio.run(main())
    assert talking_llm.model.pool.num_free == talking_llm.model.pool.num_pages


def test_a_drain_lets_requests_finish(talking_llm: LLM) -> None:
    async def main() -> None:
        engine = AsyncEngine(talking_llm)
        await engine.start()
        streams = [engine.submit(p, GREEDY) for p in PROMPTS]
        await engine.stop(drain_seconds=30)
        assert [(await s.completion()).finish_reason for s in streams] == ["length"] * 4

    asyncio.run(main())


def test_a_failing_step_reaches_every_reader(
    talking_llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        engine = AsyncEngine(talking_llm)
        await engine.start()
        monkeypatch.setattr(engine, "_step", lambda: 1 / 0)
        streams = [engine.submit(p, GREEDY) for p in PROMPTS]
        for stream in streams:
            with pytest.raises(ZeroDivisionError):
                await stream.completion()
        with pytest.raises(StoppedError, match="failure"):
            engine.submit(PROMPTS[0], GREEDY)
        await engine.stop()

    asyncio.run(main())


def test_the_snapshot_adds_up(talking_llm: LLM) -> None:
    async def body(engine: AsyncEngine) -> None:
        streams = [engine.submit(p, GREEDY) for p in PROMPTS]
        await asyncio.gather(*(s.completion() for s in streams))
        seen = engine.snapshot()
        assert seen.emitted_tokens == 4 * GREEDY.max_tokens
        assert seen.prompt_tokens == sum(map(len, PROMPTS))
        assert seen.finished == {"length": 4}
        assert (seen.waiting, seen.running) == (0, 0)
        assert seen.time_to_first_token.count == seen.request_time.count == 4
        assert seen.time_between_tokens.count < seen.emitted_tokens
        assert seen.proposed_by_position[0] >= seen.accepted_by_position[0] > 0
        assert sum(seen.turns.values()) > 0

    run(talking_llm, body)


def test_auto_alone_has_the_best_target_of_the_weights(talking_llm: LLM) -> None:
    async def main() -> None:
        async with serving(talking_llm, AsyncOptions(cascades=("auto",))) as engine:
            named = [engine.submit(PROMPTS[0], GREEDY, cascade=c) for c in ("auto", "auto > w8a16")]
            for stream in named:
                assert len((await stream.completion()).token_ids) == GREEDY.max_tokens
            with pytest.raises(ArgumentError, match="expected none, or one of"):
                engine.submit(PROMPTS[0], GREEDY, cascade="auto > w4a16")

    asyncio.run(main())


@pytest.mark.parametrize(
    "bad",
    [
        {"cascade": "w4a4"},
        {"cascade": "f32"},
        {"cascade": "nonsense"},
        {"priority": "high"},
        {"priority": 2**40},
        {"deadline": "soon"},
    ],
)
def test_a_bad_request_is_refused_when_submitted(talking_llm: LLM, bad: dict[str, object]) -> None:
    async def main() -> None:
        options = AsyncOptions(cascades=("w4a4 > w8a16",))
        async with serving(talking_llm, options) as engine:
            with pytest.raises(ArgumentError):
                engine.submit(PROMPTS[0], GREEDY, **bad)  # type: ignore[arg-type]
            with pytest.raises(ArgumentError, match="token"):
                engine.submit([1, 99999], GREEDY)
            await engine.submit(PROMPTS[0], GREEDY, cascade="w4a4 > w8a16").completion()

    asyncio.run(main())
