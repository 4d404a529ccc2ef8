"""What bodies that are being received take, all together: clients are many, memory is one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from halfbyte.server.errors import ApiError

BODIES_AT_ONCE = 16  # of the largest size


class HeldBytes:
    """Counts the bodies between their first byte and their last check."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0

    @contextmanager
    def body(self) -> Iterator[bytearray]:
        """A body to be filled through `add`; it counts until the block ends."""
        raw = bytearray()
        try:
            yield raw
        finally:
            self._held -= len(raw)

    def add(self, raw: bytearray, piece: bytes) -> None:
        """ApiError 429 where others take too much already."""
        if self._held + len(piece) > self._limit:
            raise ApiError(
                429,
                "too many large bodies are being received; try again later",
                kind="rate_limit_error",
                code="bodies_full",
                headers={"retry-after": "1"},
            )
        self._held += len(piece)
        raw += piece
