"""Options of `ngram`."""

from __future__ import annotations

from dataclasses import dataclass

from halfbyte.checks import check_int
from halfbyte.options import check_options, integer, option

MOST_N = 256
MOST_HISTORY = 1 << 20  # an index takes up to 70 bytes per token
_LEAVE = "leave it out for the default"


@dataclass(frozen=True)
class NgramOptions:
    """What counts as a match and where it is looked for."""

    min_n: int = option(2, "Shortest suffix that is proposed from.", integer(1, MOST_N, _LEAVE))
    # A longer match counts as one of this length.
    max_n: int = option(24, "Longest suffix that is looked for.", integer(1, MOST_N, _LEAVE))
    history: int = option(
        0,
        "Tokens of earlier outputs that `ngram` searches too.",
        integer(0, MOST_HISTORY, _LEAVE),
        "--ngram-history",
    )

    def __post_init__(self) -> None:
        check_options(self, "ngram")
        check_int("ngram max_n", self.max_n, self.min_n, MOST_N, _LEAVE)
