"""The soak counts what it says, and sees an answer that is not plain decoding's."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.soak.check import count_unlike, count_wrong, settled
from benchmarks.soak.client import Client, Tally
from benchmarks.soak.orders import KINDS, TOOLS, Order, Orders

from benchmarks.soak import client
from halfbyte import LLM
from halfbyte.errors import SourceError
from tests.server.running import serving
from tests.support.talking_model import write_talking_model


async def _fill(port: int, orders: Iterator[Order], tally: Tally) -> None:
    """Six users, each of which takes the next order."""

    async def user() -> None:
        for order in orders:
            await Client(port, tally).fill(order, keep=True)

    await asyncio.gather(*(user() for _ in range(6)))


def test_every_request_is_counted_and_a_changed_answer_is_found(talking_llm: LLM) -> None:
    tally = Tally()
    vocab = 40  # of the tiny model's letters
    orders = Orders(12, vocab, (None, "none", "ngram > w8a16")).draw(72, seed=1)

    async def users(port: int) -> dict[str, float]:
        await _fill(port, orders, tally)
        return await settled(port)

    with serving(talking_llm) as server:
        seen = asyncio.run(users(int(server.url.rpartition(":")[2])))
        assert seen["num_pages"] == server.llm.model.pool.num_pages
        assert seen["free_pages"] == seen["num_pages"]
    assert sum(tally.ended.values()) == 72
    assert {"left left", "malformed refused", "whole length"} <= set(tally.ended)
    assert tally.finished == len(tally.kept) + len(tally.asked)
    plain = talking_llm.with_cascade(talking_llm.cascade.plain, prefix_cache=False)
    assert len(tally.kept) > 20
    assert count_wrong(plain, tally.kept) == 0
    changed = replace(tally.kept[0], logprobs=[x + 1e-7 for x in tally.kept[0].logprobs])
    assert count_wrong(plain, [changed, *tally.kept[1:]]) == 1


TEMPLATE = (
    "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}"
    "{% for m in messages %}<turn>{{ m.role }}: {{ m.content }}\n{% endfor %}"
)


def test_conversations_grammars_and_calls_are_asked_again_alone(tmp_path: Path) -> None:
    model = write_talking_model(tmp_path / "model", template=TEMPLATE)
    llm = LLM(model, "w4a8 > w8a16", threads=2, num_tokens=2048, page_size=16)
    tally = Tally()
    orders = Orders(90, 40, (None, "none"), tools=True).draw(140, seed=2)

    async def users(port: int) -> list[int]:
        await _fill(port, orders, tally)
        first, *others = tally.asked
        changed = replace(first, said=first.said | {"logprobs": [*first.said["logprobs"], 0.0]})
        return [await count_unlike(port, asked) for asked in (tally.asked, [changed, *others])]

    with serving(llm) as server:
        assert asyncio.run(users(int(server.url.rpartition(":")[2]))) == [0, 1]
    kinds = {name.split()[0] for name in tally.ended}
    assert {"chat", "tools", "structured"} <= kinds
    assert any(one.said["calls"] for one in tally.asked)


def test_every_kind_has_its_share_and_a_request_depends_on_its_number_alone() -> None:
    orders = Orders(12, 40, (None, "none"), tools=True)
    drawn = list(orders.draw(1000, seed=3))
    counts = Counter(order.kind for order in drawn)
    assert counts.keys() == {*KINDS, *TOOLS}
    assert max(counts.values()) - min(counts.values()) <= 1
    assert drawn == list(orders.draw(1000, seed=3))
    assert {order.kind for order in Orders(12, 40, (None,)).draw(60, seed=3)} == {*KINDS}


@pytest.mark.parametrize("kind", [*KINDS, *TOOLS])
def test_a_request_that_finds_no_room_comes_again_as_it_was(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "BUSY_SECONDS", 0.0)
    drawn = Orders(12, 40, (None,), tools=True).draw(70, seed=4)
    order = next(order for order in drawn if order.kind == kind)
    tally, asked = Tally(), list[bytes]()

    async def full(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split()[0])
        asked.append(head + await reader.readexactly(length))
        status = 429 if len(asked) < 4 else 400 if kind == "malformed" else 500
        writer.write(b"HTTP/1.1 %d x\r\n\r\n" % status)
        writer.close()

    async def ask() -> None:
        server = await asyncio.start_server(full, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            await Client(port, tally).fill(order, keep=True)

    if kind == "malformed":
        asyncio.run(ask())
    else:
        with pytest.raises(SourceError, match="status 500"):
            asyncio.run(ask())
    assert len(asked) == 4
    assert len(set(asked)) == 1
    assert tally.busy == 3


def test_a_server_that_breaks_its_promise_stops_the_run() -> None:
    async def ask() -> None:
        async def broken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(65536)
            writer.write(b'HTTP/1.1 200 OK\r\n\r\ndata: {"choices": []}\n\n')
            writer.close()

        server = await asyncio.start_server(broken, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        order = Order("stream", "/v1/completions", {"prompt": "a", "stream": True})
        async with server:
            await Client(port, Tally()).fill(order, keep=False)

    with pytest.raises(SourceError, match="without its end"):
        asyncio.run(ask())
