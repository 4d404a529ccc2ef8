"""Reasoning before an answer: a budget of tokens for it, and constraints that begin after it."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Seq
from copy import copy
from dataclasses import dataclass

import numpy as np

from halfbyte.sampling.grammar import Vocabulary
from halfbyte.sampling.params import Thinking
from halfbyte.sampling.shaper import Grammar, Words, allows, words_of


@dataclass(frozen=True, slots=True)
class _State:
    """Where a text is: before its first tag, inside reasoning, or after it."""

    place: str  # before | inside | after
    tail: bytes = b""  # enough of the text to see a tag
    count: int = 0  # tokens inside
    forced: int = 0  # tokens of the closing tag that were forced


class ThinkingGrammar:
    """See `sampling.shaper.Grammar`: anything while the model thinks, then `answer`.

    After `budget` tokens the closing tag is the only text that may follow. What a token is depends
    on the tokens before it alone, so drafts change nothing.
    """

    def __init__(
        self,
        thinking: Thinking,
        answer: Grammar | None,
        vocabulary: Vocabulary,
        close_ids: Seq[int],
        end_ids: Iterable[int],
        vocab_size: int,
    ) -> None:
        """`close_ids`: tokens that spell the closing tag. `end_ids`: tokens that end a text, which
        must not before a constrained answer has begun."""
        self._answer = answer
        self._vocabulary = vocabulary
        self._open, self._close = thinking.open.encode(), thinking.close.encode()
        self._budget = thinking.budget
        self._close_ids = list(close_ids)
        self._vocab_size = vocab_size
        self._any = _all_words(vocab_size)
        self._thought = self._any
        if answer is not None:
            self._thought = self._any & ~words_of(end_ids, vocab_size)
        # An answer that is constrained from its first token on does not think.
        place = "inside" if thinking.opened else "before" if answer is None else "after"
        self._state = _State(place)

    @property
    def is_complete(self) -> bool:
        """Whether nothing can follow."""
        answers = self._state.place == "after" and self._answer is not None
        return answers and self._answer is not None and self._answer.is_complete

    def mask(self) -> Words | None:
        """Tokens that may come next."""
        if self._state.place == "after":
            return self._any if self._answer is None else self._answer.mask()
        if self._is_over(self._state):
            return words_of([self._close_ids[self._state.forced]], self._vocab_size)
        return self._thought

    def push(self, token: int) -> bool:
        """Take a token if it is allowed."""
        if self._state.place == "after":
            return self._answer is None or self._answer.push(token)
        if not allows(self.mask(), token):
            return False
        self._state = self._next(self._state, token, forced=self._is_over(self._state))
        return True

    def fork(self) -> ThinkingGrammar:
        """Another text that begins as this one."""
        other = copy(self)
        other._answer = None if self._answer is None else self._answer.fork()
        return other

    def _is_over(self, state: _State) -> bool:
        return state.place == "inside" and self._budget is not None and state.count >= self._budget

    def _next(self, state: _State, token: int, *, forced: bool) -> _State:
        text = state.tail + self._vocabulary.token_bytes(token)
        if state.place == "before":
            begun = text.lstrip()
            if not begun.startswith(self._open):
                return _State("before" if self._open.startswith(begun) else "after", text)
            text = begun[len(self._open) :]
        forced_now = state.forced + forced
        if self._close in text or forced_now == len(self._close_ids):
            return _State("after")
        count = state.count + (state.place == "inside")  # the opening tag is not reasoning
        return _State("inside", text[-len(self._close) :], count, forced_now)


def _all_words(vocab_size: int) -> Words:
    words = np.full(-(-vocab_size // 32), 0xFFFFFFFF, dtype=np.uint32)
    if vocab_size % 32:
        words[-1] = (1 << vocab_size % 32) - 1
    return words
