"""What an engine is told: lengths, sizes, limits."""

from __future__ import annotations

from dataclasses import dataclass

from halfbyte.errors import ArgumentError


@dataclass(frozen=True)
class EngineOptions:
    """What does not change the output, only the speed."""

    # Most tokens, or nodes of a tree, proposed per cycle. Where a draft step costs about half of
    # the target's, the best fixed length is 3 for agreement around .85 and 3 or 4 around .95.
    draft_length: int = 3
    min_confidence: float = 0.0  # a draft stops where its token is less likely than this
    max_batch: int = 8  # sequences decoded together
    # Of A > B > C, most tokens that A proposes to B at a time; B stops at draft_length less this.
    inner_length: int = 4
    # Rows of prompts that may join a step of sequences that decode: a longer step for these, a
    # sooner first token for the others.
    prefill_rows: int = 128
    # Plain tokens that one native call may decode, where nobody waits for a place: as many as take
    # no longer than a frame of a 60 Hz screen, so that no reader sees them later. 0: one a call.
    burst_seconds: float = 1 / 60
    prefix_cache: bool = True  # pages of a prompt's beginning are kept and shared

    def __post_init__(self) -> None:
        for name, least, most, fix in _COUNTS:
            if not _is_count(getattr(self, name), least, most):
                raise ArgumentError(
                    name,
                    got=repr(getattr(self, name)),
                    expected=f"an integer, {least} to {most}",
                    fix=fix,
                )
        if not (isinstance(self.min_confidence, int | float) and 0.0 <= self.min_confidence < 1.0):
            raise ArgumentError(
                "min_confidence",
                got=repr(self.min_confidence),
                expected="a number, 0 <= x < 1",
                fix="0 never stops a draft early",
            )
        if not (isinstance(self.burst_seconds, int | float) and 0.0 <= self.burst_seconds <= 1.0):
            raise ArgumentError(
                "burst_seconds",
                got=repr(self.burst_seconds),
                expected="a number of seconds, 0 <= x <= 1",
                fix="leave it out; 0 decodes one token a call",
            )


_COUNTS = (
    ("draft_length", 0, 1024, "3 suits most models, a tree has use for more"),
    ("inner_length", 0, 64, "4 suits most stages"),
    ("max_batch", 1, 1024, "use a small number such as 8"),
    ("prefill_rows", 1, 8192, "128 suits most machines"),
)


def _is_count(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
