"""Questions of every published form are read alike."""

from __future__ import annotations

from typing import Any

import pytest

from halfbyte.evaluate.choice_formats import Question, read_question

FORMS: list[tuple[dict[str, Any], Question]] = [
    (
        {"question": "why", "options": "A. so\nB. no\u2028way", "answer": "B. no\u2028way"},
        Question("why", ("so", "no\u2028way"), 1),
    ),
    ({"question": "q", "options": "\nA. x\nB. y", "answer": "A. x"}, Question("q", ("x", "y"), 0)),
    (
        {"question": "q\nA. x\nB. y", "options": "\nC. z\nD. w", "answer": "D. w"},
        Question("q", ("x", "y", "z", "w"), 3),
    ),
    (
        {"question": "q", "options": ".\nA. x\nB. y", "answer": "A. x"},
        Question("q.", ("x", "y"), 0),
    ),
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
