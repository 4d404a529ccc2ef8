"""`ngram`: proposes what followed an earlier occurrence of the longest suffix of the text.

Prompt lookup (Saxena, 2023) with the suffix length found rather than given: the longest n from
`min_n` to `max_n`, and of its places the latest. It costs no forward. What follows may run into
the end of the text and on into the proposal itself, so a loop is continued as long as asked.

A match of m tokens, m less than `max_n`, is taken to go on for m + 1 at most: a judge's rows are
not free, and a short match seldom goes on for long.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from time import perf_counter

from halfbyte.cascade.decoding import Decoding
from halfbyte.cascade.proposer import Ask, Proposals
from halfbyte.cascade.verify import Outcome
from halfbyte.proposers.options import NgramOptions
from halfbyte.runtime.suffix_index import SuffixIndex, match_lengths
from halfbyte.runtime.suffixes import BREAK, NO_MATCH, Match

# Tokens of a match from which on a stage in the middle need not judge what follows: its forward
# costs more than the rejections it spares. Recorded answers of SmolLM2-135M and Qwen2.5-Coder-1.5B
# (`benchmarks.decoding.cascades`, edit and quotes) replayed with 3, 4, 6 and 8: 3 was the fastest
# on all. (2 is 3% faster still, but then there is nothing left to judge.)
SURE_MATCH = 3


class History:
    """Earlier outputs, the newest at most `capacity` tokens of them.

    Two indices: when the young one holds half the capacity it becomes the old one, whose text is
    dropped. So nothing is ever taken out of an index.
    """

    def __init__(self, capacity: int, depth: int) -> None:
        self._half = max(1, capacity // 2)
        self._depth = depth
        self._young = SuffixIndex(depth)
        self._old = SuffixIndex(depth)

    def add(self, output: Seq[int]) -> None:
        """Remember an output, its end at least."""
        output = output[-self._half + 1 :] if self._half > 1 else []
        if len(self._young) + len(output) + 1 > self._half:
            self._old, self._young = self._young, SuffixIndex(self._depth)
        self._young.extend([*output, BREAK])

    def find(self, context: list[int]) -> tuple[Match, SuffixIndex]:
        """The longest match; on a tie the younger."""
        young, old = Match(*self._young.find(context)), Match(*self._old.find(context))
        return (old, self._old) if old.length > young.length else (young, self._young)

    def __len__(self) -> int:
        return len(self._young) + len(self._old)


class NgramProposer:
    """An index for each sequence, brought up to date when it is asked."""

    name = stack = "ngram"
    deepest = None
    fused = None

    def __init__(self, options: NgramOptions | None = None) -> None:
        self._options = options or NgramOptions()
        self._indices: dict[Decoding, SuffixIndex] = {}
        self._begun_at: dict[Decoding, int] = {}
        depth = self._options.max_n
        self._history = History(self._options.history, depth) if self._options.history else None

    def begin(self, sequence: Decoding) -> None:
        """An empty index; its text is read when something is asked for."""
        if sequence not in self._indices:
            self._indices[sequence] = SuffixIndex(self._options.max_n)
            self._begun_at[sequence] = len(sequence.tokens)

    def release(self, sequence: Decoding) -> None:
        """Drop the index; remember what was emitted since `begin`, if a history is kept."""
        begun = self._begun_at.pop(sequence, None)
        if self._indices.pop(sequence, None) is not None and self._history is not None:
            self._history.add(sequence.tokens[begun:])

    def observe(self, asks: Seq[Ask], outcomes: Seq[Outcome]) -> None:
        """Nothing: new tokens are read off the sequence."""

    def propose(self, asks: Seq[Ask]) -> Proposals:
        """The tokens that followed; none without a match of at least `min_n`."""
        started = perf_counter()
        tokens, sure = [], []
        for ask in asks:
            followed, is_sure = self._follow(ask) if ask.depth or ask.sure_depth else ([], False)
            tokens.append(followed)
            sure.append(is_sure)
        return Proposals(tokens, seconds=perf_counter() - started, sure=sure)

    def match_lengths(self, sequences: Seq[Decoding]) -> list[int]:
        """Match length of what each would be proposed now; 0: nothing would be."""
        if self._history is not None:
            return [self._find(sequence, ())[0].length for sequence in sequences]
        lengths = match_lengths(
            [self._indices[s] for s in sequences], [s.tokens for s in sequences]
        )
        least = self._options.min_n
        return [length if length >= least else 0 for length in lengths]

    def _find(self, sequence: Decoding, ahead: Seq[int]) -> tuple[Match, SuffixIndex]:
        index, tokens, depth = self._indices[sequence], sequence.tokens, self._options.max_n
        match, where, context = Match(*index.follow(tokens)), index, tokens
        if ahead:
            context = [*tokens[max(0, len(tokens) + len(ahead) - depth) :], *ahead][-depth:]
            match = Match(*index.find(context))
        if self._history is not None and match.length < depth:
            earlier, place = self._history.find(context[-depth:])
            if earlier.length > match.length:
                match, where = earlier, place
        return (match, where) if match.length >= self._options.min_n else (NO_MATCH, index)

    def _follow(self, ask: Ask) -> tuple[list[int], bool]:
        """The proposal, and whether it is sure."""
        match, index = self._find(ask.sequence, ask.ahead)
        if not match.length:
            return [], False
        sure = ask.sure_depth > 0 and match.length >= SURE_MATCH
        length = max(ask.depth, ask.sure_depth) if sure else ask.depth
        if match.length < self._options.max_n:
            length = min(length, match.length + 1)
        at = match.end + 1
        found = index.slice(at, at + length)
        if index is not self._indices[ask.sequence]:  # of another output: up to its end
            return (found[: found.index(BREAK)] if BREAK in found else found), sure
        if len(found) < length:
            # The text goes on with `ahead`, and then with the proposal itself.
            found += ask.ahead
            found += (found[i] for i in range(length - len(found)))
        return found[:length], sure
