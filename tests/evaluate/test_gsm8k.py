"""Answers are read as published: after "The answer is", or the last number of all."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest

from halfbyte.api.llm import LLM
from halfbyte.errors import SourceError
from halfbyte.evaluate.subject import Subject
from halfbyte.evaluate.tasks.gsm8k import Gsm8k, last_number, number, stated_answer
from halfbyte.evaluate.tasks.gsm8k_examples import EXAMPLES
from halfbyte.evaluate.tasks.task import Item


@pytest.mark.parametrize(
    ("text", "stated", "last"),
    [
        ("So 3 + 4 = 7. The answer is 7.", 7, 7),
        ("The answer is $1,234.50 dollars", Decimal("1234.5"), Decimal("1234.5")),
        ("the answer is -12.\n\nQ: 5", -12, 5),
        ("The final answer is: **18**", 18, 18),
        ("It costs 5 in 2 ways", None, 2),
        ("The answer is unknown", None, None),
        ("The answer is 3. The answer is 4.", 3, 4),
        ("The answer is 70,000", 70000, 70000),
        ("The answer is 16 * 10 = 160 dollars.", 16, 160),
        ("1,23", None, 23),
    ],
)
def test_the_answer_of_a_text(text: str, stated: object, last: object) -> None:
    assert stated_answer(text) == stated
    assert last_number(text) == last


def test_numbers_are_equal_by_value() -> None:
    assert number("18.00") == number("$18") == number(" 18. ")
    assert number("NaN") is None
    assert number("Infinity") is None
    assert number("1e") is None


def test_the_worked_examples_state_answers_that_the_extraction_reads() -> None:
    assert len(EXAMPLES) == 8
    for _, thought, answer in EXAMPLES:
        assert last_number(thought) == number(answer)
        assert stated_answer(f"{thought} The answer is {answer}.") == number(answer)


def _file(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_gold_answers_are_what_stands_after_the_mark(tmp_path: Path, talking_llm: LLM) -> None:
    data = _file(
        tmp_path / "test.jsonl",
        {"question": "How many?", "answer": "3 * 4 = <<3*4=12>>12 so\n#### 1,200"},
        {"question": "How many?", "answer": "7"},
    )
    items = Gsm8k(data).items(Subject(talking_llm, "tiny", "f"))
    assert [number(i.data["answer"]) for i in items] == [1200, 7]


@pytest.mark.parametrize(
    "row", [{"question": "x", "answer": "no number"}, {"question": 5, "answer": "1"}, ["x"]]
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, talking_llm: LLM, row: object) -> None:
    task = Gsm8k(_file(tmp_path / "bad.jsonl", row))
    with pytest.raises(SourceError, match=r"bad\.jsonl"):
        task.items(Subject(talking_llm, "tiny", "f"))


def test_other_examples_can_be_given(tmp_path: Path) -> None:
    rows = [
        {"question": f"Q{i}", "answer": f"it is <<1+{i}={i + 1}>>{i + 1}\n#### {i + 1}"}
        for i in range(8)
    ]
    task = Gsm8k(_file(tmp_path / "t.jsonl"), shots=_file(tmp_path / "shots.jsonl", *rows))
    prompt = task._prompt(Item("0", {"question": "why?"}))
    assert prompt.startswith("Q: Q0\nA: it is 1 The answer is 1.\n\nQ: Q1\n")
    assert prompt.endswith("Q: why?\nA:")
    assert prompt.count("The answer is") == 8
    with pytest.raises(SourceError, match="8 with question"):
        Gsm8k(tmp_path / "t.jsonl", shots=_file(tmp_path / "few.jsonl", *rows[:7]))
