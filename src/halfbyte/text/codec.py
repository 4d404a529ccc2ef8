"""Text in and out: tokenizer, incremental detokenizer, stop strings."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import Any, Protocol

from tokenizers import Tokenizer

from halfbyte.errors import ArgumentError, FormatError
from halfbyte.importers.tokenizer_gguf import is_library_fault


class TextSource(Protocol):
    """What a checkpoint or a model source says about its text (see docs/format.md)."""

    @property
    def tokenizer_json(self) -> str | None:
        """Hugging Face tokenizers JSON; None: no tokenizer."""

    @property
    def chat_template(self) -> str | None:
        """Jinja source; None: no template."""

    @property
    def tokenizer_info(self) -> dict[str, Any]:
        """`bos`, `add_bos`, `eos_ids`, `bos_token`, `eos_token`."""


class TextCodec:
    """A model's tokenizer: text to ids, ids to text."""

    def __init__(self, source: TextSource, vocab_size: int) -> None:
        text = source.tokenizer_json
        if text is None:
            raise ArgumentError(
                "model",
                got="no tokenizer.json",
                expected="a tokenizer, since text was given or asked for",
                fix="give token ids, or convert the model from files with a tokenizer",
            )
        try:
            self._tokenizer: Tokenizer = Tokenizer.from_str(text)
        except BaseException as error:  # bare Exception, or a Rust panic, on any malformed field
            raise _tokenizer_fault(error) from error
        info = source.tokenizer_info
        self.bos_id = _token_id(info.get("bos"), vocab_size)
        self.bos_token = str(info.get("bos_token") or "")
        self.eos_token = str(info.get("eos_token") or "")
        self._add_bos = bool(info.get("add_bos")) and self.bos_id is not None
        self._vocab_size = vocab_size
        self._alone: dict[int, str] = {}
        # Whether a text's bytes are those of its tokens in a row, so that whole characters may be
        # decoded token by token: most tokenizers of today, but none that writes a space for "▁".
        self.is_bytewise = type(self._tokenizer.decoder).__name__ == "ByteLevel"

    @property
    def tokenizer_json(self) -> str:
        """The tokenizer as the tokenizers library writes it."""
        return self._tokenizer.to_str()

    def encode(self, text: str, *, as_chat: bool = False) -> list[int]:
        """Token ids of a prompt; a chat template has already written its own special tokens."""
        try:
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        except BaseException as error:  # a lone surrogate, or a model the library gives up on
            if not is_library_fault(error):
                raise
            raise ArgumentError(
                "prompt", got=str(error)[:200], expected="valid Unicode text", fix="check the text"
            ) from error
        if self._add_bos and not as_chat and self.bos_id is not None:
            ids = [self.bos_id, *ids]
        if ids and max(ids) >= self._vocab_size:
            raise FormatError(
                "bad-tokenizer",
                "tokenizer.json",
                got=f"token id {max(ids)}",
                expected=f"ids below the model's {self._vocab_size}",
                fix="convert the model again",
            )
        return ids

    def decode(self, ids: Seq[int], *, keep_special: bool = False) -> str:
        """Text of ids; special tokens are left out unless kept."""
        try:
            text: str = self._tokenizer.decode(list(ids), skip_special_tokens=not keep_special)
        except BaseException as error:
            raise _tokenizer_fault(error) from error
        return text

    def decode_one(self, token: int) -> str:
        """`decode` of one token; what it found is kept."""
        text = self._alone.get(token)
        if text is None:
            text = self._alone[token] = self.decode([token])
        return text

    def token_text(self, token: int) -> str:
        """One token alone, special or not; U+FFFD where it is only part of a character."""
        return self.decode([token], keep_special=True)

    def vocabulary(self) -> dict[int, str]:
        """Every token the tokenizer has, by its id."""
        known: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        return {i: token for token, i in known.items()}


def _tokenizer_fault(error: BaseException) -> BaseException:
    """The library's fault by its name here; anything else as it is."""
    if not is_library_fault(error):
        return error
    return FormatError(
        "bad-tokenizer",
        "tokenizer.json",
        got=" ".join(str(error).split())[:200],
        expected="a Hugging Face tokenizers file",
        fix="convert the model again",
    )


def eos_ids(source: TextSource, model_eos: tuple[int, ...], vocab_size: int) -> frozenset[int]:
    """Tokens that end a text, from the tokenizer and from the model's config."""
    named = source.tokenizer_info.get("eos_ids")
    given = named if isinstance(named, list | tuple) else ()
    ids = (_token_id(value, vocab_size) for value in (*given, *model_eos))
    return frozenset(i for i in ids if i is not None)


def _token_id(value: object, vocab_size: int) -> int | None:
    is_id = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < vocab_size
    return value if is_id else None  # type: ignore[return-value]


class Detokenizer:
    """Text of a growing list of ids; what it has given out never changes.

    Bytes of an unfinished character are held back until the tokens that complete it. Only the ids
    since the last emission but one are decoded again: they are the context the next ones need.
    """

    def __init__(self, codec: TextCodec) -> None:
        self._codec = codec
        self._ids: list[int] = []
        self._context = 0  # ids before it are not looked at again
        self._read = 0  # ids before it have been given out
        self._known = ""  # text of those in between

    def add(self, token: int) -> str:
        """The text that `token` completes, possibly none."""
        before = len(self._ids)
        self._ids.append(token)
        if self._codec.is_bytewise and self._read == before:  # nothing is held back
            alone = self._codec.decode_one(token)
            if alone and "\ufffd" not in alone:
                self._context, self._read, self._known = before, before + 1, alone
                return alone
        return self._advance(hold=True)

    def flush(self) -> str:
        """What is still held back: the replacement characters of a broken sequence."""
        return self._advance(hold=False)

    def _advance(self, *, hold: bool) -> str:
        text, known = self._codec.decode(self._ids[self._context :]), len(self._known)
        if len(text) <= known or (hold and text.endswith("\ufffd")):
            return ""
        self._context, self._read = self._read, len(self._ids)
        ids, codec = self._ids[self._context :], self._codec
        self._known = codec.decode_one(ids[0]) if len(ids) == 1 else codec.decode(ids)
        return text[known:]


class StopStrings:
    """Finds the first stop string in a growing text and holds back what may become one."""

    def __init__(self, stops: Seq[str]) -> None:
        self._stops = tuple(stops)
        self._longest = max((len(s) for s in self._stops), default=0)
        self._held = ""
        self.found = False

    def add(self, text: str) -> str:
        """The part of the text so far that no stop string can reach; sets `found` at a match."""
        if not self._stops:
            return text
        held = self._held + text
        matches = [(at, stop) for stop in self._stops if (at := held.find(stop)) >= 0]
        if matches:
            self.found = True
            self._held = ""
            return held[: min(at for at, _ in matches)]
        keep = next(
            (
                n
                for n in range(min(self._longest - 1, len(held)), 0, -1)
                if any(stop.startswith(held[-n:]) for stop in self._stops)
            ),
            0,
        )
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def flush(self) -> str:
        """What was held back and became no stop string."""
        held, self._held = self._held, ""
        return held
