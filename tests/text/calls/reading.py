"""Reading an answer in pieces, and what came of it."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from halfbyte.text.calls.call import Offer
from halfbyte.text.calls.forms import FORMS, Reasoning
from halfbyte.text.calls.reader import AnswerReader, Found, Style

BY_NAME = {form.name: form for form in FORMS}
HERMES = "hermes, qwen-coder, glm"
PLACES = st.lists(st.integers(0, 200), max_size=12)
_TEXT = {"type": "string"}
OFFER = Offer(
    {
        "f": {},
        "g": {},
        "now": {"type": "object", "properties": {}},
        "weather": {"properties": {"city": _TEXT, "days": {"type": "integer"}}},
        "write_file": {"properties": {"text": _TEXT}},
    }
)


def cut(text: str, places: list[int]) -> list[str]:
    """A text in pieces."""
    ends = sorted({min(p, len(text)) for p in places} | {0, len(text)})
    return [text[a:b] for a, b in pairwise(ends)]


def read(
    text: str,
    form: str = HERMES,
    places: list[int] | None = None,
    *,
    reasoning: Reasoning | None = None,
    offer: Offer | None = OFFER,
    **how: Any,
) -> Found:
    """What a reader finds in a text that comes cut at these places."""
    reader = AnswerReader(Style(BY_NAME[form], reasoning), offer, **how)
    found = Found()
    for piece in cut(text, places or []):
        found += reader.add(piece)
    return found + reader.finish()


def calls(found: Found) -> list[tuple[str, Any]]:
    """Names and arguments."""
    return [(call.name, json.loads(call.arguments)) for call in found.calls]
