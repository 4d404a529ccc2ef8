"""Limits of an `AsyncEngine`."""

from __future__ import annotations

from dataclasses import dataclass

from halfbyte.options import check_options, integer, option


@dataclass(frozen=True)
class AsyncOptions:
    """How many requests wait, and what they may ask for."""

    max_waiting: int = option(
        256,
        "Most requests that wait; beyond it they get 429.",
        integer(0, 1_000_000, "256 suits most servers"),
    )
    # Besides the LLM's own cascade and its plain target; None: whatever the loaded weights can run.
    # Stages with a path (model:, eagle:) must be named here.
    cascades: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        from halfbyte.cascade.cascade import Cascade  # commands show this class without numpy

        check_options(self)
        for text in self.cascades or ():
            Cascade.parse(text)
