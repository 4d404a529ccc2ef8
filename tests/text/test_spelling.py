"""Texts of tokens: the same streamed and whole, behind a prompt as within one text."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from halfbyte.text.codec import Detokenizer, TextCodec
from tests.support.tiny_tokenizers import KINDS


@dataclass
class Source:
    tokenizer_json: str
    chat_template: str | None = None
    tokenizer_info: dict[str, Any] = field(default_factory=dict)


@cache
def codec_of(kind: str) -> tuple[TextCodec, Tokenizer]:
    tokenizer = KINDS[kind]()
    return TextCodec(Source(tokenizer.to_str()), 10_000), tokenizer


def streamed(codec: TextCodec, ids: list[int], **how: Any) -> str:
    detokenizer = Detokenizer(codec, **how)
    return "".join(map(detokenizer.add, ids)) + detokenizer.flush()


kinds = pytest.mark.parametrize("kind", KINDS)
seeds = st.lists(st.integers(0, 10**6), max_size=24)


def tokens(codec_and_tokenizer: tuple[TextCodec, Tokenizer], seeds: list[int]) -> list[int]:
    """Any ids of the vocabulary, a few past it."""
    size = codec_and_tokenizer[1].get_vocab_size() + 3
    return [seed % size for seed in seeds]


@kinds
@given(seeds=seeds, keep=st.booleans())
def test_streamed_pieces_make_the_whole_text(kind: str, seeds: list[int], keep: bool) -> None:
    codec, _ = found = codec_of(kind)
    ids = tokens(found, seeds)
    assert streamed(codec, ids, keep_special=keep) == codec.decode(ids, keep_special=keep)


@kinds
@given(seeds=seeds, cut=st.integers(0, 24))
def test_an_answer_is_what_the_whole_text_has_behind_its_prompt(
    kind: str, seeds: list[int], cut: int
) -> None:
    codec, _ = found = codec_of(kind)
    ids = tokens(found, seeds)
    prompt = Detokenizer(codec)
    shown = "".join(map(prompt.add, ids[:cut]))  # half a character at its end is the answer's
    assert shown + codec.decode(ids[cut:], after=ids[:cut]) == codec.decode(ids)
    assert streamed(codec, ids[cut:], after=ids[:cut]) == codec.decode(ids[cut:], after=ids[:cut])


@kinds
@given(seeds=seeds, keep=st.booleans())
def test_whole_texts_are_those_of_the_library(kind: str, seeds: list[int], keep: bool) -> None:
    """But where it gives up valid characters because broken ones follow, or reads an added token
    as bytes."""
    codec, tokenizer = found = codec_of(kind)
    ids = [i for i in tokens(found, seeds) if tokenizer.id_to_token(i) != "«日本»"]
    text = codec.decode(ids, keep_special=keep)
    if kind == "byte_level" or "\ufffd" not in text:
        assert text == tokenizer.decode(ids, skip_special_tokens=not keep)


@kinds
@given(seeds=seeds)
def test_what_tokens_spell_is_the_text(kind: str, seeds: list[int]) -> None:
    codec, _ = found = codec_of(kind)
    ids = [i for i in tokens(found, seeds) if not codec.is_control(i)]
    data, begun = b"", False
    for i in ids:
        data += codec.token_bytes(i, first=not begun)
        begun = begun or codec.shows(i)
    if kind != "suffixes":  # a word's last token shows its space with the next
        assert data.decode(errors="replace") == codec.decode(ids)


@kinds
def test_a_texts_own_tokens_give_it_back(kind: str) -> None:
    codec, _ = codec_of(kind)
    texts = {
        "byte_level": "hé 日🙂\n «日本»w",
        "metaspace": "Hello world a",
        "wordpiece": "hellos world",
    }
    text = texts.get(kind, "he" if kind == "suffixes" else "Hello world 日🙂\n <tool_call>")
    ids = codec.encode(text)
    assert codec.decode(ids) == text
    if kind != "suffixes":
        assert "".join(codec.token_texts(ids)) == text or "🙂" in text


@pytest.mark.parametrize("kind", ["sentencepiece", "metaspace"])
def test_a_continuation_keeps_its_first_space(kind: str) -> None:
    codec, _ = codec_of(kind)
    hello, world = codec.encode("Hello world")[-2:]
    assert codec.decode([world], after=[hello]) == " world"
    assert codec.decode([world]) == "world"
    assert codec.token_text(world) == " world"
    turn = codec.encode("<|turn|>")
    # A control token has no text: the space of the first word behind it is within the text, and
    # behind nothing but control tokens it is not.
    assert codec.decode([world], after=[hello, *turn]) == " world"
    assert codec.decode([world], after=turn) == "world"


@settings(max_examples=30)
@given(st.integers(1, 300))
def test_a_text_behind_a_long_prompt_of_control_tokens_begins_it(length: int) -> None:
    codec, _ = codec_of("metaspace")
    (turn,) = codec.encode("<|turn|>")
    (world,) = codec.encode("world")
    assert codec.decode([world], after=[turn] * length) == "world"
    assert codec.decode([world], after=[world] + [turn] * length) == " world"


def test_parts_of_a_character_have_their_bytes() -> None:
    for kind in ("byte_level", "sentencepiece"):
        codec, _ = codec_of(kind)
        ids = codec.encode("🙂")
        assert len(ids) > 3
        assert b"".join(map(codec.token_bytes, ids)).lstrip() == "🙂".encode()


def test_how_training_cut_and_filled_texts_is_forgotten() -> None:
    tokenizer = KINDS["byte_level"]()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=40, pad_to_multiple_of=8, pad_token="</s>")
    codec = TextCodec(Source(tokenizer.to_str()), 10_000)
    assert len(codec.encode("abcdfgh")) == 7
    assert codec.encode("") == []
