"""Prompts of the speculation benchmark: public test sets where given, else built-in ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from halfbyte.errors import SourceError
from halfbyte.evaluate.prompts import PROMPTS, BenchPrompt

# kind -> file name pattern, field, what is asked around it
SETS = {
    "code": (
        "humaneval*.jsonl",
        "prompt",
        "Complete this Python function and explain how it works.\n\n```python\n{}```",
    ),
    "maths": ("gsm8k*.jsonl", "question", "{}\n\nThink step by step and give the answer."),
}


def load(data: Path | None, per_kind: int) -> list[BenchPrompt]:
    """`per_kind` prompts of each kind, evenly spread over each file of `data`."""
    if data is None:
        return [
            prompt for kind in SETS for prompt in [p for p in PROMPTS if p.kind == kind][:per_kind]
        ]
    return [
        BenchPrompt(kind, asked.format(text))
        for kind, (pattern, field, asked) in SETS.items()
        for text in _spread_out(_texts(data, pattern, field), per_kind)
    ]


def _texts(data: Path, pattern: str, field: str) -> list[str]:
    found = sorted(data.glob(pattern))
    if not found:
        raise SourceError(
            "--data", got=f"no {pattern} in {data}", expected="JSON lines", fix="leave --data out"
        )
    try:
        lines = found[0].read_text(encoding="utf-8").splitlines()
        return [str(json.loads(line)[field]) for line in lines if line.strip()]
    except (ValueError, LookupError, TypeError) as error:
        raise SourceError(
            str(found[0]),
            got=f"{type(error).__name__}: {error}",
            expected=f"objects with {field!r}",
            fix="leave --data out",
        ) from error


def _spread_out(texts: Sequence[str], count: int) -> list[str]:
    step = max(1, len(texts) // max(1, count))
    return list(texts[::step][:count])
