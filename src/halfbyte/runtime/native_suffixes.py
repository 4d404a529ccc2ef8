"""The suffix index of the native core; `halfbyte.proposers.suffixes` is its slow twin.

It runs on the processor whatever the model runs on: a text of tokens is all it needs.
"""

from halfbyte._native import SuffixIndex, match_lengths

__all__ = ["SuffixIndex", "match_lengths"]
