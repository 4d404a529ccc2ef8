"""Text in and out: nothing shown is ever taken back, nothing is lost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from halfbyte.errors import ArgumentError, FormatError
from halfbyte.text.codec import Detokenizer, TextCodec, eos_ids
from halfbyte.text.stop_strings import StopStrings
from tests.support.talking_model import BOS, EOS, TURN, VOCAB, tokenizer


@dataclass
class _Source:
    tokenizer_json: str | None = field(default_factory=lambda: tokenizer().to_str())
    chat_template: str | None = None
    tokenizer_info: dict[str, Any] = field(
        default_factory=lambda: {"bos": BOS, "add_bos": True, "eos_ids": [EOS]}
    )


CODEC = TextCodec(_Source(), VOCAB)
ids = st.lists(st.integers(0, 261), max_size=40)


@given(st.text(max_size=40).filter(lambda t: not any("\ud800" <= c <= "\udfff" for c in t)))
def test_text_survives_encoding_token_by_token(text: str) -> None:
    tokens = CODEC.encode(text)
    assert tokens[0] == BOS
    detokenizer = Detokenizer(CODEC)
    pieces = [detokenizer.add(t) for t in tokens]
    assert "".join(pieces) + detokenizer.flush() == CODEC.decode(tokens)


@given(ids)
def test_incremental_text_of_any_tokens_equals_decoding_them_at_once(tokens: list[int]) -> None:
    detokenizer = Detokenizer(CODEC)
    pieces = [detokenizer.add(t) for t in tokens]
    assert "".join(pieces) + detokenizer.flush() == CODEC.decode(tokens)


@given(ids)
def test_decoding_token_by_token_shows_what_the_library_decodes_so_far(tokens: list[int]) -> None:
    """At every token, but for the bytes of a character that may not be complete."""
    detokenizer, shown = Detokenizer(CODEC), ""
    for count, token in enumerate(tokens, 1):
        shown += detokenizer.add(token)
        whole = tokenizer().decode(tokens[:count])
        assert whole.startswith(shown)
        assert whole[len(shown) :] in ("", "\ufffd", "\ufffd" * 2, "\ufffd" * 3)


def test_a_tokenizer_that_joins_words_is_decoded_in_context() -> None:
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"▁a": 0, "▁b": 1}, unk_token="▁a"))
    words.decoder = tokenizers.decoders.Metaspace()
    codec = TextCodec(_Source(words.to_str(), tokenizer_info={}), 2)
    detokenizer = Detokenizer(codec)
    assert not codec.is_bytewise
    assert "".join(detokenizer.add(t) for t in (0, 1, 0)) == codec.decode([0, 1, 0]) == "a b a"


def test_half_a_character_is_held_back() -> None:
    tokens = CODEC.encode("é", as_chat=True)
    assert len(tokens) == 2
    detokenizer = Detokenizer(CODEC)
    assert [detokenizer.add(t) for t in tokens] == ["", "é"]


@given(
    st.lists(st.text("abc", max_size=4), max_size=12),
    st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
)
def test_stop_strings_cut_at_the_first_match_however_the_text_is_split(
    pieces: list[str], stops: list[str]
) -> None:
    finder = StopStrings(stops)
    shown = ""
    for i, piece in enumerate(pieces):
        shown += finder.add(piece)
        # What decides is the text so far, not how it was cut into pieces.
        so_far = "".join(pieces[: i + 1])
        assert finder.found == any(s in so_far for s in stops)
        assert so_far.startswith(shown)
        if finder.found:
            first = min(so_far.find(s) for s in stops if s in so_far)
            assert shown == so_far[:first]
            return
    assert shown + finder.flush() == "".join(pieces)


def test_a_chat_prompt_gets_no_second_bos() -> None:
    assert CODEC.encode("<turn>hi", as_chat=True)[0] == TURN
    assert CODEC.encode("hi")[0] == BOS


def test_end_tokens_come_from_the_tokenizer_and_the_config() -> None:
    source = _Source(tokenizer_info={"eos_ids": [EOS, -4, True, "x", 10**9]})
    assert eos_ids(source, (3,), VOCAB) == {EOS, 3}


@pytest.mark.parametrize("damaged", ["", "{", "{}", "[]", '{"model": {"type": "BPE"}}', "\0"])
def test_a_damaged_tokenizer_is_a_named_fault(damaged: str) -> None:
    with pytest.raises(FormatError, match="bad-tokenizer"):
        TextCodec(_Source(tokenizer_json=damaged), VOCAB)


def test_ids_past_the_models_vocabulary_are_refused() -> None:
    codec = TextCodec(_Source(), 100)
    with pytest.raises(FormatError, match="bad-tokenizer"):
        codec.encode("<turn>")


def test_text_for_a_model_without_a_tokenizer_is_refused() -> None:
    with pytest.raises(ArgumentError, match="give token ids"):
        TextCodec(_Source(tokenizer_json=None), VOCAB)


NAMES = {1: "<|turn|>", 2: "<|turn|>x", 3: "</s>"}
MARKS = {1: "①", 2: "②", 3: "③"}  # the control tokens within a text, as one character each
pieces = st.lists(st.sampled_from(["a", "b", "ab", "x", "<|turn|>", 1, 2, 3]), max_size=12)
stop_lists = st.lists(
    st.sampled_from(["ab", "a<|turn|>", "<|turn|>b", "<|turn|>xa", "</s>", "b</s>a"]), max_size=3
)


@given(pieces, stop_lists)
def test_stop_strings_may_name_control_tokens(pieces: list[str | int], stops: list[str]) -> None:
    finder, shown, marked = StopStrings(stops, NAMES), "", ""
    for piece in pieces:
        shown += finder.add(piece) if isinstance(piece, str) else finder.add_control(piece)
        marked += piece if isinstance(piece, str) else MARKS[piece]
        ends = [at for stop in stops for at in _starts(marked, stop)]
        assert finder.found == bool(ends)
        if ends:
            assert shown == _visible(marked[: min(ends)])
            assert finder.flush() == ""
            return
        assert _visible(marked).startswith(shown)
    assert shown + finder.flush() == _visible(marked)


def _starts(marked: str, stop: str) -> list[int]:
    """Where `stop` begins: in the text as it is shown, or with the control tokens it names."""
    named = stop
    for token in (2, 1, 3):
        named = named.replace(NAMES[token], MARKS[token])
    shown, places = _visible(marked), [i for i, c in enumerate(marked) if c not in MARKS.values()]
    starts = [places[shown.find(stop)]] if stop in shown else []
    return starts + ([marked.find(named)] if named in marked else [])


def _visible(marked: str) -> str:
    return "".join(c for c in marked if c not in MARKS.values())
