"""The soak counts what it says, and sees an answer that is not plain decoding's."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.soak.check import _metrics, count_unlike, count_wrong
from benchmarks.soak.client import Client, Tally

from halfbyte import LLM
from halfbyte.errors import SourceError
from tests.server.running import serving
from tests.support.talking_model import write_talking_model


def test_every_request_is_counted_and_a_changed_answer_is_found(talking_llm: LLM) -> None:
    tally = Tally()
    vocab = 40  # of the tiny model's letters

    async def users(port: int) -> dict[str, float]:
        async def user(seed: int) -> None:
            client = Client(
                port, random.Random(seed), 12, vocab, (None, "none", "ngram > w8a16"), tally
            )
            for _ in range(12):
                assert await client.one(keep=True)

        await asyncio.gather(*(user(seed) for seed in range(6)))
        await asyncio.sleep(0.2)
        return await _metrics(port)

    with serving(talking_llm) as server:
        seen = asyncio.run(users(int(server.url.rpartition(":")[2])))
        assert seen["num_pages"] == server.llm.model.pool.num_pages
        assert seen["free_pages"] == seen["num_pages"]
    assert sum(tally.ended.values()) == 72
    assert {"left", "malformed", "length"} <= set(tally.ended)
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

    async def users(port: int) -> list[int]:
        async def user(seed: int) -> None:
            client = Client(port, random.Random(seed), 90, 40, (None, "none"), tally, tools=True)
            while len(tally.asked) < 60:
                await client.one(keep=True)

        await asyncio.gather(*(user(seed) for seed in range(6)))
        first, *others = tally.asked
        changed = replace(first, said=first.said | {"logprobs": [*first.said["logprobs"], 0.0]})
        return [await count_unlike(port, asked) for asked in (tally.asked, [changed, *others])]

    with serving(llm) as server:
        assert asyncio.run(users(int(server.url.rpartition(":")[2]))) == [0, 1]
    kinds = {name.split()[0] for name in tally.ended}
    assert {"chat", "tools", "structured"} <= kinds
    assert any(one.said["calls"] for one in tally.asked)


def test_a_server_that_breaks_its_promise_stops_the_run() -> None:
    async def ask() -> None:
        async def broken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(65536)
            writer.write(b'HTTP/1.1 200 OK\r\n\r\ndata: {"choices": []}\n\n')
            writer.close()

        server = await asyncio.start_server(broken, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        client = Client(port, random.Random(1), 8, 40, (None,), Tally())
        async with server:
            await client._completion("stream", keep=False)

    with pytest.raises(SourceError, match="without its end"):
        asyncio.run(ask())
