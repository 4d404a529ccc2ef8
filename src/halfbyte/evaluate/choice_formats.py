"""Lines of multiple-choice data sets, in their published forms or a flat one, as questions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_OPTIONS = 26
_LETTER = re.compile(r"(?:^|\n)([A-Z])\. ")


@dataclass(frozen=True, slots=True)
class Question:
    """`gold` is the index of the right option."""

    text: str
    options: tuple[str, ...]
    gold: int


def read_question(row: Mapping[str, Any]) -> Question | None:
    """None for a line of no known form.

    flat            {question, options: "A. …\\nB. …", answer: "B. …"}
    PIQA            {goal, sol1, sol2, label}
    HellaSwag       {ctx, endings, label or expected_index, activity_label}
    MMLU            {question, choices, answer: index}
    OpenBookQA, CommonsenseQA   {question: {stem, choices: [{label, text}]}, answerKey}
    """
    for read in (_flat, _piqa, _hellaswag, _mmlu, _keyed):
        question = read(row)
        if question is not None:
            enough = 2 <= len(question.options) <= MAX_OPTIONS
            texts = all(isinstance(option, str) for option in question.options)
            inside = 0 <= question.gold < len(question.options)
            return question if enough and texts and inside else None
    return None


def _flat(row: Mapping[str, Any]) -> Question | None:
    text, options, answer = (row.get(key) for key in ("question", "options", "answer"))
    if not (isinstance(text, str) and isinstance(options, str) and isinstance(answer, str)):
        return None
    before, *listed = _LETTER.split(options)
    if listed[:1] != ["A"]:  # the first options stand at the end of the question
        text, *listed = _LETTER.split(f"{text}\n{options.lstrip()}")
    text += before.strip()  # a full stop that went astray
    letters, texts = listed[::2], listed[1::2]
    stated = answer[:1]
    if letters != [chr(ord("A") + i) for i in range(len(letters))] or stated not in letters:
        return None
    return Question(text, tuple(texts), letters.index(stated))


def _piqa(row: Mapping[str, Any]) -> Question | None:
    if not isinstance(row.get("goal"), str) or "sol2" not in row:
        return None
    return Question(row["goal"], (row.get("sol1", 0), row["sol2"]), _index(row.get("label")))


def _hellaswag(row: Mapping[str, Any]) -> Question | None:
    context, endings = row.get("ctx"), row.get("endings")
    if not isinstance(context, str) or not isinstance(endings, list):
        return None
    activity = row.get("activity_label")
    text = f"{activity}: {context}" if isinstance(activity, str) else context
    options = tuple(_clean(e) if isinstance(e, str) else e for e in endings)
    return Question(_clean(text), options, _index(row.get("label", row.get("expected_index"))))


def _mmlu(row: Mapping[str, Any]) -> Question | None:
    text, choices = row.get("question"), row.get("choices")
    if not isinstance(text, str) or not isinstance(choices, list):
        return None
    return Question(text, tuple(choices), _index(row.get("answer")))


def _keyed(row: Mapping[str, Any]) -> Question | None:
    question = row.get("question")
    if not isinstance(question, dict) or not isinstance(question.get("choices"), list):
        return None
    choices = [c for c in question["choices"] if isinstance(c, dict)]
    labels = [c.get("label") for c in choices]
    if not isinstance(question.get("stem"), str) or row.get("answerKey") not in labels:
        return None
    options = tuple(c.get("text", 0) for c in choices)
    return Question(question["stem"], options, labels.index(row["answerKey"]))


def _index(value: object) -> int:
    """An index as a number or its text; -1 for anything else."""
    if isinstance(value, str) and value.isdigit():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else -1


def _clean(text: str) -> str:
    """Captions from WikiHow carry [header] and [title] marks."""
    marked = text.replace(" [title]", ". ")
    return re.sub(r" +", " ", re.sub(r"\[.*?\]", "", marked)).strip()
