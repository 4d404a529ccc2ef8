"""Which tokens a draft may use, and that the choice never shows in the output."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfbyte import LLM, SamplingParams
from halfbyte.errors import ArgumentError
from halfbyte.evaluate.exactness import identical
from halfbyte.text.draft_vocabulary import DraftVocabulary, count_tokens
from tests.support.talking_model import EOS, VOCAB

TEXT = "the thing in the end, in the end\n" * 40 + "zzz"


@given(st.integers(1, 400), st.sets(st.integers(0, VOCAB - 1), max_size=4))
def test_ids_are_ascending_and_end_tokens_always_among_them(size: int, ends: set[int]) -> None:
    ids = DraftVocabulary(size).ids(None, VOCAB, ends)
    assert (ids[1:] > ids[:-1]).all()
    assert ends <= set(ids.tolist())
    assert len(ids) == min(VOCAB, max(size, len(ends)))


def test_a_text_is_counted_by_the_tokenizer(talking_llm: LLM, tmp_path: Path) -> None:
    codec = talking_llm.model.codec
    ranked = count_tokens(TEXT, codec)
    counts = codec.encode(TEXT, as_chat=True)
    assert ranked == sorted(set(counts), key=lambda t: (-counts.count(t), t))
    source = tmp_path / "text.txt"
    source.write_text(TEXT, encoding="utf-8")
    ids = DraftVocabulary(6, str(source)).ids(codec, VOCAB, [EOS])
    assert set(ids.tolist()) == {EOS, *ranked[:5]}


def test_a_list_of_ids_is_a_ranking(tmp_path: Path) -> None:
    source = tmp_path / "ranking.json"
    source.write_text(json.dumps([7, 3, 9, 3]), encoding="utf-8")
    assert DraftVocabulary(3, str(source)).ids(None, VOCAB, [8]).tolist() == [3, 7, 8]
    assert DraftVocabulary(6, str(source)).ids(None, VOCAB, []).tolist() == [0, 1, 2, 3, 7, 9]


@pytest.mark.parametrize(
    "content", ["{", "{}", "[1, 2.5]", "[true]", "[-1]", '["a"]', "[100000000]", "[" * 100000]
)
def test_a_ranking_that_is_none_is_one_line(content: str, tmp_path: Path) -> None:
    source = tmp_path / "ranking.json"
    source.write_text(content, encoding="utf-8")
    with pytest.raises(ArgumentError, match="draft vocabulary from") as error:
        DraftVocabulary(3, str(source)).ids(None, VOCAB, [])
    assert "\n" not in str(error.value)


def test_missing_files_texts_without_a_tokenizer_and_bad_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="readable"):
        DraftVocabulary(3, str(tmp_path / "none.txt")).ids(None, VOCAB, [])
    text = tmp_path / "text.txt"
    text.write_bytes(b"a\xff")
    with pytest.raises(ArgumentError, match="readable"):
        DraftVocabulary(3, str(text)).ids(None, VOCAB, [])
    text.write_text("abc", encoding="utf-8")
    with pytest.raises(ArgumentError, match="tokenizer"):
        DraftVocabulary(3, str(text)).ids(None, VOCAB, [])
    with pytest.raises(ArgumentError, match="draft vocabulary"):
        DraftVocabulary(0)


@pytest.mark.parametrize("cascade", ["w4a8 > w8a16", "w4a4 > w4a8 > w8a16"])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_a_reduced_draft_vocabulary_changes_agreement_but_not_the_output(
    talking_llm: LLM, cascade: str, temperature: float
) -> None:
    params = SamplingParams(temperature=temperature, seed=3, max_tokens=40, ignore_eos=True)
    prompts = ["the thing in there", "Why?\n"]
    plain = talking_llm.with_cascade("w8a16").generate(prompts, params)
    accepted = []
    for size in (8, 200, VOCAB):
        llm = talking_llm.with_cascade(
            cascade, draft_length=6, inner_length=3, draft_vocab=DraftVocabulary(size)
        )
        got = llm.generate(prompts, params)
        assert identical(got, plain)
        first = next(iter(cascade.split(" > ")))
        links = [c.statistics.links for c in got]
        accepted.append(
            sum(v.accepted_tokens for x in links for k, v in x.items() if k.startswith(first))
        )
    assert accepted[0] < accepted[2]
    assert accepted[2] > 0
