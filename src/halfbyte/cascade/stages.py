"""The stages a cascade string may name, and how they are written.

    LEVEL              w4a8, w8a16, w4a8+h8, f32: the target's own weights
    ngram              repeats what followed the same words before
    model:PATH@LEVEL   another model with the same vocabulary
    eagle:PATH         a trained draft head
    auto               whatever the planner finds fastest
    auto | STAGE | …   the same, and models and heads offered to it

A PATH may be written as a JSON string ("…"), and is when it has a `>`, a `|`, a quote or blank
ends.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from halfbyte.config import LEVEL_NAMES, Level
from halfbyte.errors import ArgumentError

MAX_PATH = 4096
MAX_OFFERS = 4


@dataclass(frozen=True, slots=True)
class Ngram:
    """Proposes what followed an earlier occurrence of the longest suffix of the text."""

    def __str__(self) -> str:
        return "ngram"


@dataclass(frozen=True, slots=True)
class Model:
    """Another model, with weights, KV and pages of its own."""

    path: str
    level: Level

    def __post_init__(self) -> None:
        _check_path(self.path)

    def __str__(self) -> str:
        return f"model:{_written(self.path)}@{self.level}"


@dataclass(frozen=True, slots=True)
class Eagle:
    """A draft head trained for the stage after it."""

    path: str

    def __post_init__(self) -> None:
        _check_path(self.path)

    def __str__(self) -> str:
        return f"eagle:{_written(self.path)}"


@dataclass(frozen=True, slots=True)
class Auto:
    """Leaves the stages before the target to the planner: levels, n-grams and what is offered."""

    offers: tuple[Model | Eagle, ...] = ()

    def __post_init__(self) -> None:
        if len(self.offers) > MAX_OFFERS or len(set(self.offers)) < len(self.offers):
            raise ArgumentError(
                "auto",
                got=f"{len(self.offers)} offers, {len(set(self.offers))} of them different",
                expected=f"at most {MAX_OFFERS} different ones",
                fix="leave some out: each costs memory and time to measure",
            )

    def __str__(self) -> str:
        return " | ".join(["auto", *map(str, self.offers)])


Stage = Level | Ngram | Model | Eagle | Auto

# What stands before the next `>` (or `|`) that is not inside a quoted path.
_PARTS = {
    mark: re.compile(rf'(?:(?:model|eagle):\s*"(?:[^"\\]|\\.)*"|[^{mark}])*') for mark in ">|"
}


def split_stages(text: str, mark: str = ">") -> list[str]:
    """The parts of a cascade string between its marks, without blanks around them."""
    parts, at = [], 0
    while True:
        match = _PARTS[mark].match(text, at)
        assert match is not None  # the pattern matches the empty string
        parts.append(match.group().strip())
        if match.end() >= len(text):
            return parts
        at = match.end() + 1


def parse_stage(text: str) -> Stage:
    """One stage; `text` has no blanks around it."""
    if re.match(r"auto\s*\|", text):
        return Auto(tuple(map(_parse_offer, split_stages(text, "|")[1:])))
    kind, colon, rest = text.partition(":")
    if colon and kind == "model":
        return _parse_model(text, rest.strip())
    if colon and kind == "eagle":
        return Eagle(_read_path(text, rest.strip()))
    if text == "ngram":
        return Ngram()
    if text == "auto":
        return Auto()
    if colon or kind in ("model", "eagle"):
        raise _bad_stage(text, "ngram, model:PATH@LEVEL, eagle:PATH, auto or a level")
    return Level.parse(text)


def _parse_offer(text: str) -> Model | Eagle:
    offer = parse_stage(text)
    if not isinstance(offer, Model | Eagle):
        raise ArgumentError(
            "offer to auto",
            got=repr(text[:200]),
            expected="model:PATH@LEVEL or eagle:PATH",
            fix="levels of the model and ngram are considered anyway",
        )
    return offer


def _parse_model(text: str, rest: str) -> Model:
    path, at, level = rest.rpartition("@")
    if not at or level.strip().partition("+")[0] not in LEVEL_NAMES:
        raise _bad_stage(text, f"model:PATH@LEVEL, LEVEL one of {', '.join(LEVEL_NAMES)}")
    return Model(_read_path(text, path.strip()), Level.parse(level))


def _read_path(text: str, written: str) -> str:
    if not written.startswith('"'):
        return written
    try:
        path = json.loads(written)
    except ValueError:
        path = None
    if not isinstance(path, str):
        raise _bad_stage(text, 'a path, or a path as a JSON string: "…"')
    return path


def _written(path: str) -> str:
    plain = path == path.strip() and not set(path) & set('>|"')
    return path if plain else json.dumps(path, ensure_ascii=False)


def _check_path(path: str) -> None:
    if not 0 < len(path) <= MAX_PATH or not path.isprintable():
        raise ArgumentError(
            "path of a stage",
            got=repr(path[:80]),
            expected=f"1 to {MAX_PATH} printable characters",
            fix="name a checkpoint directory, a model file or a hub id",
        )


def _bad_stage(text: str, expected: str) -> ArgumentError:
    return ArgumentError(
        "stage of a cascade",
        got=repr(text[:200]),
        expected=expected,
        fix="see docs/cascade.md for what a stage may be",
    )
