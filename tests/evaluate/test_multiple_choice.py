"""Questions of every published form are read alike, and scored as continuations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from halfbyte.api.llm import LLM
from halfbyte.errors import SourceError
from halfbyte.evaluate.run import evaluate
from halfbyte.evaluate.scorer import Scorer
from halfbyte.evaluate.subject import Subject
from halfbyte.evaluate.tasks.choice_formats import Question, read_question
from halfbyte.evaluate.tasks.multiple_choice import STYLES, MultipleChoice, continuations

FORMS: list[tuple[dict[str, Any], Question]] = [
    (
        {"question": "why", "options": "A. so\nB. no\u2028way", "answer": "B. no\u2028way"},
        Question("why", ("so", "no\u2028way"), 1),
    ),
    ({"question": "q", "options": "\nA. x\nB. y", "answer": "A. x"}, Question("q", ("x", "y"), 0)),
    ({"goal": "g", "sol1": "a", "sol2": "b", "label": 1}, Question("g", ("a", "b"), 1)),
    (
        {"ctx": "he [x] runs [title] on", "endings": ["a", "b", "c"], "label": "2"},
        Question("he runs. on", ("a", "b", "c"), 2),
    ),
    (
        {"ctx": "c", "activity_label": "Run", "endings": ["a", "b"], "expected_index": 0},
        Question("Run: c", ("a", "b"), 0),
    ),
    ({"question": "q", "choices": ["a", "b"], "answer": 1}, Question("q", ("a", "b"), 1)),
    (
        {
            "question": {
                "stem": "s",
                "choices": [{"label": "A", "text": "a"}, {"label": "B", "text": "b"}],
            },
            "answerKey": "B",
        },
        Question("s", ("a", "b"), 1),
    ),
]


@pytest.mark.parametrize(("row", "expected"), FORMS)
def test_every_published_form_is_read(row: dict[str, Any], expected: Question) -> None:
    assert read_question(row) == expected


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"question": "q", "options": "A. x", "answer": "A. x"},
        {"question": "q", "options": "A. x\nC. y", "answer": "A. x"},
        {"question": "q", "options": "A. x\nB. y", "answer": "C. z"},
        {"goal": "g", "sol1": "a", "sol2": "b", "label": 2},
        {"goal": "g", "sol1": 3, "sol2": "b", "label": 1},
        {"ctx": "c", "endings": ["a", 5], "label": 0},
        {"question": "q", "choices": ["a"] * 27, "answer": 0},
        {"question": "q", "choices": ["a", "b"], "answer": True},
        {"question": {"stem": "s", "choices": [{"label": "A"}]}, "answerKey": "A"},
    ],
)
def test_other_lines_are_no_questions(row: dict[str, Any]) -> None:
    assert read_question(row) is None


def test_options_follow_the_question_or_are_listed_by_letter() -> None:
    question = Question("Why? ", ("so ", "no"), 0)
    assert continuations(question, STYLES["piqa"]) == ("Question: Why?\nAnswer:", [" so", " no"])
    assert continuations(question, STYLES["mmlu"]) == (
        "Why?\nA. so\nB. no\nAnswer:",
        [" A", " B"],
    )


def _file(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_answer_is_the_likeliest_continuation(tmp_path: Path, talking_llm: LLM) -> None:
    rows = [
        {"goal": f"the thin {i}", "sol1": "in the inn", "sol2": "then there", "label": 0}
        for i in range(6)
    ]
    subject = Subject(talking_llm, "tiny", "f")
    task = MultipleChoice("piqa", _file(tmp_path / "piqa.jsonl", *rows))
    accuracy, normed = evaluate(task, subject, tmp_path)
    right = 0
    codec = talking_llm.model.codec
    for row in rows:
        context = codec.encode(f"Question: {row['goal']}\nAnswer:")
        totals = []
        for option in (row["sol1"], row["sol2"]):
            with Scorer(talking_llm.model, subject.level, max_tokens=128) as scorer:
                whole = codec.encode(f"Question: {row['goal']}\nAnswer: {option}")
                assert whole[: len(context)] == context
                totals.append(scorer.score(context, whole[len(context) :]).logprobs.sum())
        right += totals[0] >= totals[1]
    assert accuracy.value == right / 6
    assert normed.metric == "accuracy_norm"


def test_a_context_longer_than_the_model_loses_its_beginning(
    tmp_path: Path, talking_llm: LLM
) -> None:
    row = {"goal": "the thin " * 400, "sol1": "inn", "sol2": "then", "label": 0}
    task = MultipleChoice("piqa", _file(tmp_path / "piqa.jsonl", row))
    assert evaluate(task, Subject(talking_llm, "tiny", "f"), tmp_path)[0].n == 1


def test_a_file_of_another_kind_is_refused(tmp_path: Path, talking_llm: LLM) -> None:
    task = MultipleChoice("mmlu", _file(tmp_path / "x.jsonl", {"question": "q"}))
    with pytest.raises(SourceError, match="record 0"):
        task.items(Subject(talking_llm, "tiny", "f"))
