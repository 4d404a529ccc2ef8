"""Turns at a model: a waiting thread goes before one that comes back; Ctrl-C leaves none taken."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from pathlib import Path
from types import FrameType

from halfbyte import LLM, SamplingParams
from halfbyte.api.async_engine import AsyncEngine
from halfbyte.api.turn import Turn


def test_a_thread_that_comes_back_stands_behind_one_that_waits() -> None:
    turn, order, rounds, begun = Turn(), list[str](), 200, threading.Event()

    def take(name: str, *, last: bool) -> None:
        with turn.lock(), turn.lock():
            begun.set()
            while not last and not turn._last.locked():  # until the other waits
                time.sleep(0)
            order.append(name)

    def comes_back() -> None:
        for _ in range(rounds):
            take("a", last=False)

    thread = threading.Thread(target=comes_back)
    thread.start()
    begun.wait()
    for i in range(rounds):
        take("b", last=i == rounds - 1)
    thread.join()
    assert "".join(order) == "ab" * rounds


def test_an_interrupt_at_any_point_leaves_the_turn_free() -> None:
    class Interrupted(BaseException):
        pass

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupted

    turn, interrupted = Turn(), 0
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for i in range(3000):
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-6 * (1 + i % 40))
                for _ in range(5000):
                    with turn.lock(), turn.lock():
                        pass
                signal.setitimer(signal.ITIMER_REAL, 0)  # it came inside a collection of garbage
            except Interrupted:
                interrupted += 1
            assert not turn._lock._is_owned()  # type: ignore[attr-defined]
            assert not turn._last.locked()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupted > 0


def test_a_call_has_its_turn_beside_an_engine_that_never_rests(talking_model: Path) -> None:
    llm = LLM(talking_model, "w8a16", threads=1, num_tokens=2048, page_size=16)
    params = SamplingParams(max_tokens=40, ignore_eos=True, temperature=0)
    wanted = llm.generate("the cat", params)[0].token_ids
    got = list[list[int]]()

    async def serve() -> int:
        asked = 0
        async with AsyncEngine(llm) as engine:
            caller = asyncio.create_task(asyncio.to_thread(llm.generate, "the cat", params))
            while not caller.done() and asked < 2000:
                asked += 2
                for stream in [engine.submit([1, 2, 3], params) for _ in range(2)]:
                    async for _ in stream:
                        pass
            beside = asked
            got.append(list((await caller)[0].token_ids))
        return beside

    assert asyncio.run(serve()) < 2000
    assert got == [list(wanted)]
