"""Log-probabilities in the shapes of both endpoints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from halfbyte.text.codec import Detokenizer, TextCodec, begun_before

LEAST = -9999.0  # stands for minus infinity, which JSON cannot say
Tops = Sequence[tuple[int, float]]  # (token, logprob), best first


def finite(value: float) -> float:
    """A number JSON can carry."""
    return value if math.isfinite(value) else LEAST


def chat_entry(codec: TextCodec, token: int, logprob: float, tops: Tops) -> dict[str, Any]:
    """One token of a chat answer."""
    return _chat_token(codec, token, logprob) | {
        "top_logprobs": [_chat_token(codec, *pair) for pair in tops]
    }


def _chat_token(codec: TextCodec, token: int, logprob: float) -> dict[str, Any]:
    data = codec.token_bytes(token)
    return {"token": codec.token_text(token), "logprob": finite(logprob), "bytes": list(data)}


class CompletionLogprobs:
    """Entries of /v1/completions, which also say where in the text a token begins.

    `codec` None: a model without a tokenizer, whose tokens are told as numbers. `after`: the tokens
    before the first; `offset`: where in the text they end; `within`: see `Detokenizer`.
    """

    def __init__(
        self,
        codec: TextCodec | None,
        after: Sequence[int] = (),
        *,
        offset: int = 0,
        within: bool = False,
    ) -> None:
        self._codec = codec
        self._offset = offset
        self._detokenizer = Detokenizer(codec, after, within=within) if codec else None
        self._begun = within or codec is None or any(map(codec.shows, reversed(after)))

    def entries(
        self,
        ids: Sequence[int],
        logprobs: Sequence[float | None],
        tops: Sequence[Tops | None] | None,
        offsets: Sequence[int] | None = None,
    ) -> dict[str, Any]:
        """Of the next tokens. `offsets`: where they begin, if that is known; `tops` None: one
        alternative each, the token itself."""
        told = [self._take(token) for token in ids]
        names = [self._name(token, begins) for token, (begins, _) in zip(ids, told, strict=True)]
        each = zip(ids, logprobs, tops or [()] * len(ids), told, strict=True)
        return {
            "tokens": names,
            "token_logprobs": [None if x is None else finite(x) for x in logprobs],
            "top_logprobs": [
                None if logprob is None or top is None else self._named(token, logprob, top, begins)
                for token, logprob, top, (begins, _) in each
            ],
            "text_offset": list(offsets) if offsets is not None else [at for _, at in told],
        }

    def _take(self, token: int) -> tuple[bool, int]:
        """Follow a token: whether the text begins with it, and where it begins in the text."""
        begins, at = not self._begun, self._offset
        if self._codec is not None and self._detokenizer is not None:
            piece = self._detokenizer.add(token)
            own = self._codec.token_text(token, first=begins)
            self._begun = self._begun or self._codec.shows(token)
            self._offset += len(piece)
            at += begun_before(piece, own)
        return begins, at

    def _named(self, token: int, logprob: float, tops: Tops, begins: bool) -> dict[str, float]:
        """The likeliest tokens by their names, and the token itself; each id has an entry."""
        named = {self._name(token, begins): finite(logprob)}
        for other, value in tops:
            if other != token:
                name = self._name(other, begins)
                named[f"token_id:{other}" if name in named else name] = finite(value)
        return dict(sorted(named.items(), key=lambda item: -item[1]))

    def _name(self, token: int, begins: bool) -> str:
        """Its text; of a part of a character the bytes, as OpenAI writes them."""
        if self._codec is None:
            return str(token)
        data = self._codec.token_bytes(token, first=begins)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
