"""Text in and out: a model's tokenizer, and the text of tokens as they come."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Seq
from functools import cached_property
from itertools import accumulate
from typing import Any, Protocol

from tokenizers import Tokenizer

from halfbyte.errors import ArgumentError, FormatError
from halfbyte.importers.tokenizer_gguf import is_library_fault
from halfbyte.text.control_tokens import ControlTokens
from halfbyte.text.spelling import Spelling

_MOST_BYTES = 4  # of a character

_SHORT_CHARS = 2048  # are tokenized in milliseconds


class TextSource(Protocol):
    """What a checkpoint or a model source says about its text (see docs/format.md)."""

    @property
    def tokenizer_json(self) -> str | None:
        """Hugging Face tokenizers JSON; None: no tokenizer."""

    @property
    def chat_template(self) -> str | None:
        """Jinja source; None: no template."""

    @property
    def named_templates(self) -> Mapping[str, str]:
        """Further templates by name; `tool_use` is the one for conversations with tools."""

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
            # How training cut and filled its texts: no matter of a prompt.
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()
            self._spelling = Spelling(self._tokenizer)
        except BaseException as error:  # bare Exception, or a Rust panic, on any malformed field
            raise _tokenizer_fault(error) from error
        info = source.tokenizer_info
        self.bos_id = _token_id(info.get("bos"), vocab_size)
        self.bos_token = str(info.get("bos_token") or "")
        self.eos_token = str(info.get("eos_token") or "")
        self._add_bos = bool(info.get("add_bos")) and self.bos_id is not None
        self._vocab_size = vocab_size
        # Whether a text's bytes are those of its tokens in a row; else tokens are decoded together.
        self.is_bytewise = self._spelling.in_a_row

    def encode(self, text: str, *, as_chat: bool = False) -> list[int]:
        """Token ids of a prompt; a chat template has already written its own special tokens."""
        try:
            ids = self._ids(text)
        except BaseException as error:  # a lone surrogate, or a model the library gives up on
            if not is_library_fault(error):
                raise
            raise _no_text(error) from error
        if self._add_bos and not as_chat and self.bos_id is not None:
            ids = [self.bos_id, *ids]
        return self._checked(ids)

    def encode_marked(self, text: str, mark: str, tokens: frozenset[str]) -> list[int]:
        """`encode` of a chat in which a mark stands inside what is text and no control token."""
        try:
            ids = self.controls.encode(text, mark, tokens)
        except BaseException as error:
            if not is_library_fault(error):
                raise
            raise _no_text(error) from error
        return self._checked(ids)

    @cached_property
    def controls(self) -> ControlTokens:
        """Its control tokens, kept apart from texts that spell them."""
        return ControlTokens(self._tokenizer)

    def _checked(self, ids: list[int]) -> list[int]:
        if ids and max(ids) >= self._vocab_size:
            raise FormatError(
                "bad-tokenizer",
                "tokenizer.json",
                got=f"token id {max(ids)}",
                expected=f"ids below the model's {self._vocab_size}",
                fix="convert the model again",
            )
        return ids

    def _ids(self, text: str) -> list[int]:
        if len(text) <= _SHORT_CHARS:
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        else:  # a batch of one: the library gives other threads a turn
            ids = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids
        return ids

    def decode(
        self,
        ids: Seq[int],
        *,
        after: Seq[int] = (),
        keep_special: bool = False,
        within: bool = False,
    ) -> str:
        """The text that `ids` add to that of the tokens before them; `within`: see `Detokenizer`.

        Control tokens have no text unless they are kept, and then they have their names.
        """
        detokenizer = Detokenizer(self, after, keep_special=keep_special, within=within)
        return "".join(map(detokenizer.add, ids)) + detokenizer.flush()

    def decode_together(self, ids: Seq[int], *, keep_special: bool = False) -> str:
        """Text of ids that are a whole text, as the tokenizers library has it."""
        try:
            text: str = self._tokenizer.decode(list(ids), skip_special_tokens=not keep_special)
        except BaseException as error:
            raise _tokenizer_fault(error) from error
        return text

    def token_bytes(self, token: int, *, first: bool = False) -> bytes:
        """What a token adds to a text (`first`: to an empty one); a control token has its name."""
        return self._spelling.first_bytes_of(token) if first else self._spelling.bytes_of(token)

    def token_text(self, token: int, *, first: bool = False) -> str:
        """`token_bytes` as text; U+FFFD where it is only part of a character."""
        return self.token_bytes(token, first=first).decode("utf-8", errors="replace")

    def token_texts(self, ids: Seq[int]) -> list[str]:
        """`token_text` of each token of a whole text."""
        texts, begun = [], False
        for token in ids:
            texts.append(self.token_text(token, first=not begun))
            begun = begun or self.shows(token)
        return texts

    def pieces(self, ids: Seq[int]) -> list[str]:
        """What each token of a whole text completes of it, control tokens by their names."""
        return list(map(Detokenizer(self, keep_special=True).add, ids))

    def offsets(self, ids: Seq[int], text: str | None = None) -> list[int]:
        """Where each of `ids` begins in the `text` that they encode, else in their own (`pieces`).

        A token that was put before the text has no characters of it.
        """
        if text is None:
            return self._starts(ids, self.pieces(ids))
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        put = len(ids) - len(encoding.ids)
        pieces = self.pieces(ids[put:])
        if "".join(pieces) == text:
            return [0] * put + self._starts(ids[put:], pieces)
        # A normalizer has changed the text: the library knows where its tokens come from.
        starts = [first for first, _ in encoding.offsets]
        return [0] * put + list(accumulate(starts, max))

    def _starts(self, ids: Seq[int], pieces: Seq[str]) -> list[int]:
        """Where tokens begin in a text made of `pieces`."""
        at, starts = 0, []
        for own, piece in zip(self.token_texts(ids), pieces, strict=True):
            starts.append(at + begun_before(piece, own))
            at += len(piece)
        return starts

    @property
    def letter(self) -> int | None:
        """A token that stands for any text before others; None: there is none."""
        return self._spelling.letter

    def shows(self, token: int) -> bool:
        """Whether a token adds to what a text shows."""
        return not self.is_control(token) and bool(self._spelling.bytes_of(token))

    def is_control(self, token: int) -> bool:
        """Whether a token is none of the text: what begins a turn, or ends it."""
        return token in self._spelling.control_names

    @property
    def control_names(self) -> Mapping[int, str]:
        """The control tokens by their ids."""
        return self._spelling.control_names

    def vocabulary(self) -> dict[int, str]:
        """Every token the tokenizer has, by its id."""
        known: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        return {i: token for token, i in known.items()}


def _no_text(error: BaseException) -> ArgumentError:
    return ArgumentError(
        "prompt", got=str(error)[:200], expected="valid Unicode text", fix="check the text"
    )


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


def begun_before(piece: str, own: str) -> int:
    """How much of the text that a token completes belongs to the tokens before it; `own`: the text
    of the token alone."""
    return max(0, len(piece) - len(own))


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
    """Text of a growing list of tokens; what it has given out never changes.

    Bytes of an unfinished character are held back until the tokens that complete it. `after`: the
    tokens before the first, whose text is not given out.
    """

    def __init__(
        self,
        codec: TextCodec,
        after: Seq[int] = (),
        *,
        keep_special: bool = False,
        within: bool = False,
    ) -> None:
        """`within`: as if a text had begun, so that its first word keeps the space that some
        tokenizers drop there. A constraint takes the bytes that tokens have within a text."""
        self._codec = codec
        self._keeps = keep_special
        shows = any(self._shows(token) for token in reversed(after))
        letter = codec.letter if within and not shows else None
        after = after if letter is None else [*after, letter]
        self._begun = shows or within
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._together = None if codec.is_bytewise else _Together(codec, after, keep_special)
        if shows and self._together is None:
            self._decoder.decode(self._end_of(after))

    def add(self, token: int) -> str:
        """The text that `token` completes, possibly none."""
        if self._together is not None:
            return self._together.add(token)
        if not self._keeps and self._codec.is_control(token):
            return ""
        data = self._codec.token_bytes(token, first=not self._begun)
        self._begun = self._begun or self._shows(token)
        return self._decoder.decode(data)

    def flush(self) -> str:
        """What is still held back: the replacement characters of a broken sequence."""
        if self._together is not None:
            return self._together.flush()
        return self._decoder.decode(b"", final=True)

    def _shows(self, token: int) -> bool:
        return self._codec.shows(token) or (self._keeps and self._codec.is_control(token))

    def _end_of(self, after: Seq[int]) -> bytes:
        """Bytes enough to know of a character that is not complete."""
        data = b""
        for token in reversed(after):
            if self._shows(token):
                data = self._codec.token_bytes(token) + data
            if len(data) >= _MOST_BYTES:
                break
        return data[-_MOST_BYTES:]


class _Together:
    """Where tokens depend on their neighbours: the last ones are decoded again with the next.

    Only the ids since the last emission but one are, and more where those have no text, since the
    first token that has one may look different from those within a text.
    """

    def __init__(self, codec: TextCodec, after: Seq[int], keep_special: bool) -> None:
        self._codec = codec
        self._keeps = keep_special
        self._ids = list(after)
        self._read = len(self._ids)  # ids before it have been given out
        self._context = 0  # ids before it are not looked at again
        self._known = ""  # text of those in between
        sizes = (1 << n for n in range(self._read.bit_length() + 1))
        self._move(max(0, self._read - size) for size in sizes)

    def add(self, token: int) -> str:
        """See `Detokenizer`."""
        self._ids.append(token)
        return self._advance(hold=True)

    def flush(self) -> str:
        """See `Detokenizer`."""
        return self._advance(hold=False)

    def _advance(self, *, hold: bool) -> str:
        text, known = self._decode(self._context), len(self._known)
        if len(text) <= known or (hold and text.endswith("\ufffd")):
            return ""
        before, self._read = self._read, len(self._ids)
        self._move([before])
        return text[known:]

    def _move(self, starts: Iterable[int]) -> None:
        """Let the context begin at the first of these from which on there is text."""
        for start in starts:
            text = self._decode(start)
            if text:
                self._context, self._known = start, text
                return
        self._known = self._decode(self._context)

    def _decode(self, start: int) -> str:
        return self._codec.decode_together(self._ids[start:], keep_special=self._keeps)
