"""What a parser makes of bytes does not depend on how they were cut."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfbyte.server.errors import ApiError
from halfbyte.server.request_parser import MAX_HEAD_BYTES, Head, RequestParser
from tests.fuzz.http_inputs import seeds

GET = b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n"
CORPUS = seeds("http-bytes")


class Events:
    """What was told, pieces of a body joined."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def on_begin(self) -> None:
        self.told.append("begin")

    def on_head(self, head: Head) -> None:
        self.told.append(head)

    def on_piece(self, piece: bytes) -> None:
        if isinstance(self.told[-1], bytes):
            self.told[-1] += piece
        else:
            self.told.append(piece)

    def on_end(self) -> None:
        self.told.append("end")


def parsed(*pieces: bytes) -> list[Any]:
    events = Events()
    parser = RequestParser(events)
    try:
        for piece in pieces:
            parser.feed(piece)
    except ApiError as error:
        assert parser.is_over
        parser.feed(GET)  # is not looked at
        events.told.append((error.status, error.code))
    return events.told


@settings(deadline=None, max_examples=300)
@given(
    parts=st.lists(st.sampled_from(CORPUS), min_size=1, max_size=3),
    flips=st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), max_size=2),
    cuts=st.lists(st.integers(0, 900), max_size=8),
)
def test_how_bytes_are_cut_makes_no_difference(
    parts: list[bytes], flips: list[tuple[int, int]], cuts: list[int]
) -> None:
    data = bytearray(b"".join(parts))
    for at, value in flips:
        data[at % len(data)] = value
    edges = sorted({0, len(data), *(cut % len(data) for cut in cuts)})
    pieces = [bytes(data[a:b]) for a, b in pairwise(edges)]
    assert parsed(*pieces) == parsed(bytes(data))
    assert parsed(*[bytes([b]) for b in data]) == parsed(bytes(data))


@pytest.mark.parametrize("offer", [b"upgrade: h2c\r\nconnection: upgrade\r\n"])
def test_offers_of_another_protocol_are_declined_one_after_the_other(offer: bytes) -> None:
    """They are parsed twice, but not one inside the other."""
    request = GET.replace(b"host: x\r\n", b"host: x\r\n" + offer)
    told = parsed(request * 3000)
    assert sum(isinstance(event, Head) for event in told) == 3000
    assert told.count("end") == 3000


def test_a_head_may_be_as_long_as_the_limit() -> None:
    line = b"x: " + b"y" * (MAX_HEAD_BYTES - 100) + b"\r\n"
    assert parsed(GET.replace(b"host: x\r\n", line))[-1] == "end"
    assert parsed(GET.replace(b"host: x\r\n", line * 2))[-1] == (431, "head_too_large")
