"""The inner side of `helper_process`: frames on stdin and stdout, and what the system bounds.

A frame is 8 bytes of length, 8 bytes with the request's number, which the reply repeats, and JSON.
Imported by scripts that are run by path, so it imports nothing of halfbyte.
"""

from __future__ import annotations

import json
import resource
import struct
from typing import Any, BinaryIO

HEAD = struct.Struct(">QQ")  # bytes of JSON that follow, number of the request
MAX_FRAME_BYTES = 1 << 28
ORPHAN_SECONDS = 300  # of one request: ends a process whose parent was killed and cannot end it


def confine(memory_bytes: int) -> None:
    """Bound the process' address space; it leaves no core and writes no file."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def receive(stream: BinaryIO) -> tuple[int, Any] | None:
    """The number of the next request, and the request; None at the end."""
    head = stream.read(HEAD.size)
    if len(head) < HEAD.size:
        return None
    size, number = HEAD.unpack(head)
    return number, json.loads(stream.read(min(size, MAX_FRAME_BYTES)))


def send(stream: BinaryIO, number: int, values: dict[str, Any]) -> None:
    """The reply to request `number`."""
    data = json.dumps(values).encode()
    stream.write(HEAD.pack(len(data), number) + data)
    stream.flush()
