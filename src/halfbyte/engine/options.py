"""Options of an engine: lengths, sizes, limits."""

from __future__ import annotations

from dataclasses import dataclass

from halfbyte.options import check_options, integer, number, one_of, option


@dataclass(frozen=True)
class EngineOptions:
    """What does not change the output, only the speed."""

    # Where a draft step costs about half of the target's, the best fixed length is 3 for agreement
    # around .85 and 3 or 4 around .95.
    draft_length: int = option(
        3,
        "Most tokens, or nodes of a tree, drafted per cycle; `auto` sets it itself.",
        integer(0, 1024, "3 suits most models, a tree has use for more"),
        "--draft-length",
        "-k",
    )
    min_confidence: float = option(
        0.0,
        "A draft stops at a token less likely than this; 0 never stops early.",
        number(0, 1, "0 never stops a draft early", open_high=True),
    )
    max_batch: int = option(
        8, "Most sequences decoded together.", integer(1, 1024, "use a small number such as 8")
    )
    # B stops at draft_length less this.
    inner_length: int = option(
        4,
        "Of A > B > C: most tokens that A proposes to B per round.",
        integer(0, 64, "4 suits most stages"),
    )
    # More is a longer step for sequences that decode, and a sooner first token for the others.
    prefill_rows: int = option(
        128,
        "Most prompt rows in a step while sequences decode.",
        integer(1, 8192, "128 suits most machines"),
    )
    # As long as a frame of a 60 Hz screen, so that no reader sees the tokens later.
    burst_seconds: float = option(
        1 / 60,
        "Seconds that plain decoding may stay in one native call, if no request waits; 0: one"
        " token per call.",
        number(0, 1, "leave it out; 0 decodes one token per call"),
        default_text="1/60",
    )
    prefix_cache: bool = option(
        True, "Keep and share the pages of a prompt's beginning.", one_of(True, False)
    )

    def __post_init__(self) -> None:
        check_options(self)
