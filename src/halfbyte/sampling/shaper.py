"""A sequence's shaper: penalties, logit bias, minimum length, allowed tokens and a grammar.

docs/numerics.md has the order in which they change a row's logits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from halfbyte.sampling.shaping import Changes

Words = NDArray[np.uint32]  # [ceil(V / 32)], bit t % 32 of word t // 32: token t is allowed


class Grammar(Protocol):
    """What a text may be, as it grows token by token. `halfbyte/sampling/grammar.py` is one."""

    @property
    def is_complete(self) -> bool:
        """Whether nothing can follow."""

    def mask(self) -> Words | None:
        """Tokens that may come next; None: the grammar cannot be followed within its limits."""

    def push(self, token: int) -> bool:
        """Take a token; False: it is not allowed, or cannot be followed within the limits."""

    def fork(self) -> Self:
        """Another text that begins as this one; what becomes of it does not change this one."""


@dataclass(frozen=True, slots=True)
class Penalties:
    """Over the text so far, as vLLM defines them."""

    presence: float = 0.0  # taken once from every token of the output
    frequency: float = 0.0  # taken once for every time it is there
    repetition: float = 1.0  # divides (above 0) or multiplies the logits of prompt and output

    @property
    def any(self) -> bool:
        """Whether they change anything."""
        return self != Penalties()


@dataclass(frozen=True, slots=True)
class Rules:
    """What a request asked for."""

    penalties: Penalties = Penalties()
    bias: Mapping[int, float] = field(default_factory=dict)
    min_tokens: int = 0
    stop_ids: frozenset[int] = frozenset()  # not before `min_tokens`
    allowed: frozenset[int] | None = None
    grammar: Grammar | None = None

    @property
    def any(self) -> bool:
        """Whether a row's logits are ever changed."""
        return bool(
            self.penalties.any
            or self.bias
            or (self.min_tokens and self.stop_ids)
            or self.allowed is not None
            or self.grammar is not None
        )


@dataclass(frozen=True, slots=True)
class _Ahead:
    """A proposal that may be emitted: the text up to it, and what may follow."""

    token: int
    grammar: Grammar
    mask: Words


class SequenceShaper:
    """See `cascade.shaping.Shaper`. One entry per token that was ever seen or named."""

    def __init__(self, rules: Rules, prompt: Seq[int], vocab_size: int) -> None:
        self._rules = rules
        self._emitted = 0
        self._slot_of: dict[int, int] = {}
        self._ids = np.empty(64, dtype=np.int32)
        self._counts = np.zeros(64, dtype=np.int64)  # in the output
        self._prompted = np.zeros(64, dtype=bool)
        self._bias = np.zeros(64, dtype=np.float32)
        for token, bias in rules.bias.items():
            slot = self._slot(token)  # may make the arrays anew
            self._bias[slot] = bias
        if rules.penalties.repetition != 1.0:
            for token in dict.fromkeys(prompt):
                slot = self._slot(token)
                self._prompted[slot] = True
        stops = rules.stop_ids if rules.min_tokens else ()
        self._stop_slots = [self._slot(token) for token in sorted(stops)]
        self._allowed = None if rules.allowed is None else words_of(rules.allowed, vocab_size)
        self._grammar = rules.grammar
        self._next: Words | None = None  # the mask after the pending token
        self._knows_next = False
        self._ahead: list[_Ahead] = []  # of the proposals admitted last
        self._masks: list[Words | None] = [self._allowed]  # of the rows admitted last

    @property
    def is_complete(self) -> bool:
        """Whether the grammar lets nothing follow."""
        return self._grammar is not None and self._grammar.is_complete

    def open(self) -> bool:
        """Whether some token may come next; to be asked before every cycle."""
        if self._grammar is None:
            return True
        if not self._knows_next:
            self._next, self._knows_next = self._mask(self._grammar), True
        self._masks = [self._next]
        return self._next is not None

    def advance(self, token: int) -> bool:
        """Follow a token that was sampled; False: the grammar cannot, and it is not emitted."""
        if self._ahead and self._ahead[0].token == token:
            ahead = self._ahead.pop(0)
            self._grammar, self._next = ahead.grammar, ahead.mask
        elif self._grammar is not None:
            self._ahead, self._knows_next = [], False
            if not self._grammar.push(token):
                return False
        self._emitted += 1
        if self._rules.penalties.any:
            slot = self._slot(token)  # may make the arrays anew
            self._counts[slot] += 1
        return True

    def admit(self, proposed: Seq[int]) -> int:
        """See the protocol; also makes the masks of the rows up to there.

        The text of every proposal has a grammar of its own, which does as it would in plain
        decoding: take a token, make a mask. One that is emitted is the text's from then on.
        """
        self._ahead = []
        grammar, masks = self._grammar, [self._allowed if self._grammar is None else self._next]
        for token in proposed:
            mask = masks[-1]
            if not allows(mask, token):
                break
            if grammar is not None:
                # Past the end of the grammar no row is of use: the text ends there.
                if grammar.is_complete:
                    break
                grammar = grammar.fork()
                mask = self._mask(grammar) if grammar.push(token) else None
                if mask is None:
                    break
                self._ahead.append(_Ahead(token, grammar, mask))
            masks.append(mask)
        self._masks = masks
        return len(masks) - 1

    def changes(self, proposed: Seq[int]) -> list[Changes]:
        """See the protocol; `admit` has let all of these pass."""
        slots = [self._slot(token) for token in proposed] if self._rules.penalties.any else []
        rows = [self._row(0)]
        for i in range(len(proposed)):
            if slots:
                self._counts[slots[i]] += 1
            rows.append(self._row(i + 1))
        for slot in slots:
            self._counts[slot] -= 1
        return rows

    def _row(self, offset: int) -> Changes:
        """Of the row `offset` tokens past the pending one."""
        size, p = len(self._slot_of), self._rules.penalties
        counts, adds = self._counts[:size], self._bias[:size]
        if self._stop_slots and self._emitted + offset < self._rules.min_tokens:
            adds = adds.copy()
            adds[self._stop_slots] = -np.inf
        there = counts > 0
        repeated = np.float32(p.repetition)
        return Changes(
            ids=self._ids[:size],
            adds=adds,
            factors=np.where(there | self._prompted[:size], repeated, np.float32(1)),
            subtracts=(p.frequency * counts + p.presence * there).astype(np.float32),
            mask=self._masks[offset],
        )

    def _mask(self, grammar: Grammar) -> Words | None:
        """The grammar's, less what is not allowed; None: nothing may come next."""
        mask = grammar.mask()
        if mask is not None and self._allowed is not None:
            mask = mask & self._allowed
        return mask if mask is not None and mask.any() else None

    def _slot(self, token: int) -> int:
        slot = self._slot_of.get(token)
        if slot is None:
            slot = self._slot_of[token] = len(self._slot_of)
            if slot == len(self._ids):
                for name in ("_ids", "_counts", "_prompted", "_bias"):
                    old = getattr(self, name)
                    setattr(self, name, np.concatenate([old, np.zeros_like(old)]))
            self._ids[slot] = token
        return slot


def words_of(allowed: Iterable[int], vocab_size: int) -> Words:
    """A mask with the bits of these tokens."""
    ids = np.fromiter(allowed, dtype=np.int64)
    words = np.zeros(-(-vocab_size // 32), dtype=np.uint32)
    np.bitwise_or.at(words, ids // 32, np.uint32(1) << (ids % 32).astype(np.uint32))
    return words


def allows(mask: Words | None, token: int) -> bool:
    """Whether a mask has the bit of a token; None allows every one."""
    return mask is None or bool(int(mask[token // 32]) >> (token % 32) & 1)
