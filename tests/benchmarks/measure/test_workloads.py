from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.measure.workloads import KINDS, load

from halfbyte.errors import SourceError


def test_every_kind_of_work_has_its_prompts(data: Path) -> None:
    work = load(data, KINDS, 2)
    assert {kind: len(prompts) for kind, prompts in work.items()} == dict.fromkeys(KINDS, 2)
    assert [kind for kind in KINDS if not work[kind][0].is_chat] == ["free"]
    copied, continued = work["copy"][0].text, work["free"][0].text
    assert copied.endswith("once 0 " * 9)
    assert "0" not in continued, "free text must not be what copying repeats"


def test_prompts_are_spread_over_the_file(data: Path) -> None:
    lines = [f'{{"question": "<{i}>"}}' for i in range(100)]
    (data / "gsm8k_4.jsonl").write_text("\n".join(lines), encoding="utf-8")
    texts = [prompt.text for prompt in load(data, ["maths"], 2)["maths"]]
    assert ["<0>" in texts[0], "<50>" in texts[1]] == [True, True]


def test_without_data_there_are_prompts_of_three_kinds() -> None:
    assert all(load(None, ["code", "maths", "chat"], 2).values())
    with pytest.raises(SourceError, match="built in are code, maths, chat"):
        load(None, ["copy"], 1)


def test_missing_and_broken_texts_are_named(data: Path) -> None:
    with pytest.raises(SourceError, match="4 texts"):
        load(data, ["chat"], 5)
    (data / "gsm8k_4.jsonl").write_text('{"answer": 1}')
    with pytest.raises(SourceError, match="KeyError"):
        load(data, ["maths"], 1)
    with pytest.raises(SourceError, match=r"mt_bench\*"):
        load(data / "nowhere", ["chat"], 1)
