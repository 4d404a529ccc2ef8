"""A budget for reasoning, and a constraint that begins after it."""

from __future__ import annotations

import numpy as np
import pytest

from halfbyte.sampling.params import Thinking
from halfbyte.sampling.shaper import Words, allows, words_of
from halfbyte.sampling.thinking import ThinkingGrammar

LETTERS = [b"<think>", b"</", b"think>", b"a", b"b", b"<end>", b"</think>"]
OPEN, CLOSE, END, A, B = 0, [1, 2], 5, 3, 4


class Letters:
    """Implements the vocabulary's side that reasoning needs."""

    def token_bytes(self, token: int) -> bytes:
        return LETTERS[token]


class OnlyB:
    """A grammar: `b`, then the end."""

    def __init__(self, taken: int = 0) -> None:
        self.taken = taken

    @property
    def is_complete(self) -> bool:
        return self.taken == 2

    def mask(self) -> Words | None:
        return words_of([B if self.taken == 0 else END], len(LETTERS))

    def push(self, token: int) -> bool:
        if self.is_complete or not allows(self.mask(), token):
            return False
        self.taken += 1
        return True

    def fork(self) -> OnlyB:
        return OnlyB(self.taken)


def _grammar(*, opened: bool, budget: int | None, answer: OnlyB | None) -> ThinkingGrammar:
    thinking = Thinking("<think>", "</think>", opened=opened, budget=budget)
    return ThinkingGrammar(thinking, answer, Letters(), CLOSE, [END], len(LETTERS))  # type: ignore[arg-type]


def _allowed(grammar: ThinkingGrammar) -> list[int]:
    mask = grammar.mask()
    return [t for t in range(len(LETTERS)) if allows(mask, t)]


def test_the_closing_tag_is_forced_after_the_budget() -> None:
    grammar = _grammar(opened=True, budget=2, answer=None)
    assert grammar.push(A)
    assert grammar.push(A)
    assert _allowed(grammar) == [CLOSE[0]]
    assert not grammar.push(A)
    assert grammar.push(CLOSE[0])
    assert _allowed(grammar) == [CLOSE[1]]
    assert grammar.push(CLOSE[1])
    assert _allowed(grammar) == list(range(len(LETTERS)))
    assert not grammar.is_complete


@pytest.mark.parametrize("close", [CLOSE, [6]])
def test_a_constraint_begins_after_the_closing_tag(close: list[int]) -> None:
    grammar = _grammar(opened=True, budget=None, answer=OnlyB())
    assert END not in _allowed(grammar), "a text does not end before its answer"
    assert all(grammar.push(token) for token in [A, A, *close])
    assert _allowed(grammar) == [B]
    assert not grammar.push(A)
    assert grammar.push(B)
    assert grammar.push(END)
    assert grammar.is_complete


def test_reasoning_that_the_model_opens_has_the_budget_too() -> None:
    grammar = _grammar(opened=False, budget=1, answer=None)
    assert grammar.push(OPEN)
    assert grammar.push(A)
    assert _allowed(grammar) == [CLOSE[0]]
    plain = _grammar(opened=False, budget=1, answer=None)
    assert all(plain.push(token) for token in (A, A, B, B)), "no tag, no budget"


def test_a_fork_changes_nothing_of_the_text_it_came_from() -> None:
    rng = np.random.default_rng(0)
    for opened in (True, False):
        grammar = _grammar(opened=opened, budget=3, answer=OnlyB() if opened else None)
        for _ in range(12):
            allowed, complete = _allowed(grammar), grammar.is_complete
            fork = grammar.fork()
            for token in rng.integers(0, len(LETTERS), 6).tolist():
                fork.push(token)
            assert (_allowed(grammar), grammar.is_complete) == (allowed, complete)
            if complete:
                break
            assert grammar.push(int(rng.choice(allowed)))
