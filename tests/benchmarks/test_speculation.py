import json
from pathlib import Path

import pytest
from benchmarks.decoding.prompts import load
from benchmarks.decoding.speculation import VARIANTS, Variant

from halfbyte.errors import ArgumentError, SourceError


@pytest.mark.parametrize("text", VARIANTS)
def test_a_variant_is_written_as_it_is_read(text: str) -> None:
    assert str(Variant.parse(text)) == text
    assert Variant.parse(text).plain.draft_length == 0


@pytest.mark.parametrize("text", ["w8a16 @3", "w4a8 > w8a16", "w4a8 > w8a16 @0", "w4a8 @x"])
def test_a_draft_length_goes_with_a_draft(text: str) -> None:
    with pytest.raises(ArgumentError, match="--variant"):
        Variant.parse(text)


def test_every_kind_has_prompts() -> None:
    assert {prompt.kind for prompt in load(None, 2)} == {"code", "maths"}


def test_prompts_are_spread_over_the_file(tmp_path: Path) -> None:
    for name, field in (("humaneval.jsonl", "prompt"), ("gsm8k.jsonl", "question")):
        lines = [json.dumps({field: f"<{i}>"}) for i in range(100)]
        (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
    texts = [prompt.text for prompt in load(tmp_path, 2)]
    assert [text for text in texts if "<50>" in text] == [texts[1], texts[3]]


def test_a_missing_prompt_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="humaneval"):
        load(tmp_path, 1)
