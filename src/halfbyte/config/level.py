"""In which precision a forward runs."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Self

from halfbyte.errors import ArgumentError

LEVEL_NAMES = ("w4a4", "w4a8", "w4a16", "w8a8", "w8a16", "f32")


@dataclass(frozen=True, slots=True)
class Level:
    """Planes and activation precision of one forward.

    `weight_bits` 4 reads the `hi` plane, 8 reads `hi` and `lo`, 32 the dense source weights.
    `act_bits` 4, 8, 16: dynamic symmetric integers per group of inputs; 32: float32.
    `head_bits` is the same choice for the output head; None: what the checkpoint says for
    `weight_bits`.
    """

    weight_bits: int
    act_bits: int
    head_bits: int | None = None

    def __str__(self) -> str:
        if self.weight_bits == 32:
            return "f32"
        return f"w{self.weight_bits}a{self.act_bits}" + (
            f"+h{self.head_bits}" if self.head_bits else ""
        )

    @classmethod
    def parse(cls, text: str) -> Self:
        """`w4a8`, `w8a16`, `f32` …; `w4a8+h8` picks the head's planes."""
        base, _, head = text.strip().partition("+")
        if base in LEVEL_NAMES and head in ("", "h4", "h8") and not (base == "f32" and head):
            if base == "f32":
                return cls(32, 32)
            return cls(int(base[1]), int(base[3:]), int(head[1]) if head else None)
        near = difflib.get_close_matches(text, LEVEL_NAMES, n=1)
        raise ArgumentError(
            "level",
            got=repr(text),
            expected=", ".join(LEVEL_NAMES) + " (+h4 or +h8 picks the head's planes)",
            fix=f"did you mean {near[0]!r}?" if near else "use one of those",
        )
