"""The soak counts what it says, and sees an answer that is not plain decoding's."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest
from benchmarks.soak.check import _metrics, count_wrong
from benchmarks.soak.client import Client, Tally

from halfbyte import LLM
from halfbyte.errors import SourceError
from tests.server.running import serving


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
