"""How often proposals are accepted, by source, with what is not known yet.

A proposed token is accepted with probability alpha, given that those before it were; so the
expected number accepted of k is the sum over j <= k of alpha^j. Of a tree each node has an alpha of
its own, the chance that it lies on the path that the target takes, best first: a node may be output
where the one before it is not. A tree of n nodes is the first n of a larger one, so the sum over
j <= n is the number accepted here too.

Each alpha is a Beta posterior over counts that fade as new ones come in. A proposal that stopped
early counts as not accepted there: what is asked for is what costs.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import accumulate
from math import sqrt
from operator import mul

POSITIONS = 16  # longest proposal; further nodes of a tree are not counted
FADE = 0.99  # a count halves after 69 proposals
PRIOR_WEIGHT = 4.0  # counts
STALE_AFTER = 256.0  # cycles after which what was seen counts half as far as hope goes
HOPE = 1.64  # standard errors: 95% of the posterior lies below
ASSUMED = 1e9  # counts


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """What proposals of one kind come from; `evidence` parts kinds that differ in acceptance.

    An n-gram's acceptance grows with the length of the match behind it: `evidence` is the least
    such length.
    """

    name: str
    evidence: int = 0
    prior: float = 0.8  # alpha before anything was seen
    is_tree: bool = False


class Acceptance:
    """Counts of every source. One caller at a time."""

    def __init__(self) -> None:
        self._counts: dict[Source, list[list[float]]] = {}  # [nodes] (1: a chain) judged, accepted
        self._gains: dict[Source, tuple[float, ...]] = {}  # until there is another count
        self._seen_at: dict[Source, int] = {}  # cycle of the last count

    def observe(
        self, source: Source, asked: int, accepted: int, tree: Collection[int] = (), now: int = 0
    ) -> None:
        """`asked` tokens were wanted of the source and `accepted` of them became output in cycle
        `now`: of a tree these nodes."""
        self._gains.pop(source, None)
        self._seen_at[source] = now
        for node, counts in enumerate(self._of(source)[: max(asked, 0)]):
            more = (1, node in tree) if source.is_tree else (min(accepted + 1, asked), accepted)
            counts[:] = [count * FADE + new for count, new in zip(counts, more, strict=True)]

    def assume(self, source: Source, alpha: float) -> None:
        """As if this had been seen of the source so often that nothing else counts."""
        self._gains.pop(source, None)
        self._counts[source] = [[ASSUMED, ASSUMED * alpha]]

    def alphas(self, source: Source) -> list[float]:
        """Agreement given that the tokens before agreed; of a tree [nodes] that each is output."""
        priors = (source.prior ** (node + 1) for node in range(POSITIONS))
        return [
            (accepted + PRIOR_WEIGHT * prior) / (judged + PRIOR_WEIGHT)
            for (judged, accepted), prior in zip(self._of(source), priors, strict=False)
        ]

    def gains(self, source: Source) -> tuple[float, ...]:
        """[POSITIONS] chance that the token at each position becomes output; never rising."""
        found = self._gains.get(source)
        if found is None:
            found = self._gains[source] = _gains_of(source, self.alphas(source))
        return found

    def hopeful_gains(self, source: Source, now: int = 0) -> tuple[float, ...]:
        """`gains` if every alpha were as high as a few counts would still allow: what is not tried
        may have become better, so counts are believed less the older they are, and never more than
        the prior."""
        fresh = 0.5 ** ((now - self._seen_at.get(source, now)) / STALE_AFTER)
        evidence = PRIOR_WEIGHT + fresh * min(self._of(source)[0][0], PRIOR_WEIGHT)
        hopes = []
        for node, alpha in enumerate(self.alphas(source), 1):
            mean = source.prior**node + (alpha - source.prior**node) * fresh
            hopes.append(min(1.0, mean + HOPE * sqrt(max(mean * (1.0 - mean), 0.01) / evidence)))
        return _gains_of(source, hopes)

    def _of(self, source: Source) -> list[list[float]]:
        found = self._counts.get(source)
        if found is None:
            nodes = POSITIONS if source.is_tree else 1
            found = self._counts[source] = [[0.0, 0.0] for _ in range(nodes)]
        return found


def _gains_of(source: Source, alphas: list[float]) -> tuple[float, ...]:
    """[POSITIONS] chance that each becomes output; never rising."""
    if source.is_tree:
        return tuple(accumulate(alphas, min))
    return tuple(accumulate(alphas * POSITIONS, mul))
