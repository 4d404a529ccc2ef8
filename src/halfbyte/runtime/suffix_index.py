"""The suffix index of the native core; without a core its definition in Python, `suffixes`.

It runs on the processor whatever the model runs on: a text of tokens is all it needs.
"""

try:
    from halfbyte._native import SuffixIndex, match_lengths
except ImportError:  # only the reference backend runs then
    from halfbyte.runtime.suffixes import (  # type: ignore[assignment]
        SuffixIndex,
        match_lengths,
    )

__all__ = ["SuffixIndex", "match_lengths"]
