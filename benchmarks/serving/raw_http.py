"""HTTP by hand: one request per connection, so that the client costs next to nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any


@asynccontextmanager
async def post(
    port: int, path: str, body: bytes | Mapping[str, Any]
) -> AsyncIterator[asyncio.StreamReader]:
    """What the server answers, from its status line on; leaving the block hangs up."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(
            b"POST %s HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
            % (path.encode(), len(data), data)
        )
        yield reader
    finally:
        writer.close()


async def status_of(reader: asyncio.StreamReader) -> int:
    """The status of an answer, its headers read; 0 where the connection ended before."""
    line = await reader.readline()
    while (await reader.readline()).strip():
        pass
    parts = line.split()
    return int(parts[1]) if len(parts) > 1 else 0


async def get(port: int, path: str) -> tuple[int, bytes]:
    """Status and body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(
            b"GET %s HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n" % path.encode()
        )
        return await status_of(reader), await reader.read()
    finally:
        writer.close()
