"""Log-probabilities in the shapes of both endpoints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

LEAST = -9999.0  # stands for minus infinity, which JSON cannot say


def finite(value: float) -> float:
    """A number JSON can carry."""
    return value if math.isfinite(value) else LEAST


def chat_entry(text: str, logprob: float, top: Sequence[tuple[str, float]]) -> dict[str, Any]:
    """One token of a chat answer."""
    return _token(text, logprob) | {"top_logprobs": [_token(*pair) for pair in top]}


def _token(text: str, logprob: float) -> dict[str, Any]:
    # A token that is part of a character has no text of its own.
    data = None if "\ufffd" in text else list(text.encode("utf-8", errors="replace"))
    return {"token": text, "logprob": finite(logprob), "bytes": data}


class CompletionLogprobs:
    """Entries of /v1/completions, which also say where in the text a token begins."""

    def __init__(self, offset: int = 0) -> None:
        self._offset = offset

    def entries(
        self,
        texts: Sequence[str],
        pieces: Sequence[str],
        logprobs: Sequence[float | None],
        tops: Sequence[Sequence[tuple[str, float]] | None],
    ) -> dict[str, Any]:
        """Of the next tokens; `pieces` is what each added to the text."""
        offsets = []
        for piece in pieces:
            offsets.append(self._offset)
            self._offset += len(piece)
        return {
            "tokens": list(texts),
            "token_logprobs": [None if x is None else finite(x) for x in logprobs],
            "top_logprobs": [
                None if top is None else {text: finite(x) for text, x in top} for top in tops
            ],
            "text_offset": offsets,
        }
