"""How often proposals are accepted, by source, request and position, with what is not known yet.

The token at position i of a proposal is accepted with probability alpha_i, given that those before
it were; so the expected number accepted of k is the sum over j <= k of alpha_1 * … * alpha_j. A
proposal that stopped before i counts as not accepted there: what is asked for is what costs.

Each alpha is a Beta posterior over counts that fade as new ones come in. What all requests of the
engine showed is the prior of each, so a new request starts from there.

Of a tree the positions are its nodes, best first. A node is accepted if it lies on the path that
the target takes; how often that is, is counted for each node by itself, since one may be where the
one before it is not. A tree of n nodes is the first n of a larger one, so the sum over j <= n is
the number accepted here too.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from itertools import accumulate
from math import sqrt
from operator import mul

POSITIONS = 16  # the last one stands for all further ones
SHARED_FADE = 0.998  # a count of all requests halves after 350 proposals
OWN_FADE = 0.98  # a request's own after 34: text changes its kind within a request
SHARED_WEIGHT = 16.0  # counts that the pooled alpha is worth at one position
OWN_WEIGHT = 6.0  # counts that all other requests are worth to one
PRIOR_WEIGHT = 4.0
STALE_AFTER = 256.0  # steps after which what was seen counts half
HOPE = 1.64  # standard errors: 95% of the posterior lies below
REFRESH = 8  # shared observations before an unseen request's estimate is made again


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


class _Counts:
    """Faded counts by position."""

    __slots__ = ("accepted", "all_accepted", "all_judged", "judged", "longest", "seen", "step")

    def __init__(self) -> None:
        self.judged = [0.0] * POSITIONS
        self.accepted = [0.0] * POSITIONS
        self.all_judged = self.all_accepted = 0.0
        self.longest = 0  # positions that have a count
        self.seen = 0  # proposals
        self.step = 0  # when the last one was

    def add(self, asked: int, accepted: int, fade: float, step: int) -> None:
        asked = min(asked, POSITIONS)
        accepted = min(accepted, asked)
        for i in range(min(accepted + 1, asked)):
            self.judged[i] = self.judged[i] * fade + 1.0
            self.accepted[i] = self.accepted[i] * fade + (i < accepted)
        self.all_judged = self.all_judged * fade + min(accepted + 1, asked)
        self.all_accepted = self.all_accepted * fade + accepted
        self.longest = max(self.longest, min(accepted + 1, asked))
        self.seen += 1
        self.step = step

    def add_nodes(self, asked: int, accepted: Seq[int], fade: float, step: int) -> None:
        asked = min(asked, POSITIONS)
        on_path = set(accepted)
        for i in range(asked):
            self.judged[i] = self.judged[i] * fade + 1.0
            self.accepted[i] = self.accepted[i] * fade + (i in on_path)
        self.all_judged = self.all_judged * fade + 1.0
        self.longest = max(self.longest, asked)
        self.seen += 1
        self.step = step


class _Estimate:
    """Gains of one request from one source, kept until more is known."""

    __slots__ = ("gains", "shared", "shared_seen")

    def __init__(self, gains: tuple[float, ...], shared: _Counts) -> None:
        self.gains = gains
        self.shared = shared
        self.shared_seen = shared.seen


class Acceptance:
    """Counts of every source, shared and by request. One caller at a time."""

    def __init__(self) -> None:
        self._shared: dict[Source, _Counts] = {}
        self._own: dict[object, dict[Source, _Counts]] = {}
        self._estimates: dict[object, dict[Source, _Estimate]] = {}
        self._nothing = _Counts()

    def observe(
        self,
        source: Source,
        request: object,
        asked: int,
        accepted: int,
        step: int,
        tree: Seq[int] | None = None,
    ) -> None:
        """`asked` tokens were wanted of the source and `accepted` of them became output: of a tree
        these nodes."""
        if asked < 1:
            return
        own = self._own.setdefault(request, {}).setdefault(source, _Counts())
        shared = self._shared.setdefault(source, _Counts())
        self._estimates.get(request, {}).pop(source, None)
        for counts, fade in ((shared, SHARED_FADE), (own, OWN_FADE)):
            if source.is_tree:
                counts.add_nodes(asked, tree or (), fade, step)
            else:
                counts.add(asked, accepted, fade, step)

    def forget(self, request: object) -> None:
        """The request ended; what it showed stays in what all showed."""
        self._own.pop(request, None)
        self._estimates.pop(request, None)

    def gains(self, source: Source, request: object) -> tuple[float, ...]:
        """[POSITIONS] chance that the token at each position becomes output; never rising."""
        # A review asks for every source of every sequence.
        known = self._estimates.get(request)
        found = known.get(source) if known is not None else None
        if found is None or found.shared.seen - found.shared_seen >= REFRESH:
            own = self._own.get(request, {}).get(source, self._nothing)
            shared = self._shared.setdefault(source, _Counts())
            found = _Estimate(gains_of(source, _alphas(source, shared, own)), shared)
            self._estimates.setdefault(request, {})[source] = found
        return found.gains

    def hopeful_gains(self, source: Source, request: object, step: int) -> tuple[float, ...]:
        """`gains` if every alpha were as high as what was seen, and when, still allows."""
        own = self._own.get(request, {}).get(source, self._nothing)
        shared = self._shared.get(source, self._nothing)
        fresh_shared = 0.5 ** ((step - shared.step) / STALE_AFTER)
        fresh = max(fresh_shared, 0.5 ** ((step - own.step) / STALE_AFTER) if own.seen else 0.0)
        evidence = PRIOR_WEIGHT
        evidence += (min(shared.all_judged, OWN_WEIGHT) + own.all_judged) * fresh
        hopes = []
        for prior, alpha in zip(_priors(source), _alphas(source, shared, own), strict=True):
            mean = prior + (alpha - prior) * fresh
            hopes.append(min(1.0, mean + HOPE * sqrt(max(mean * (1.0 - mean), 0.01) / evidence)))
        return gains_of(source, hopes)

    def judged(self, source: Source) -> float:
        """Faded count of tokens that the target judged, over all requests."""
        return self._shared.get(source, self._nothing).all_judged

    def alphas(self, source: Source, request: object = None) -> tuple[float, ...]:
        """[POSITIONS] agreement given that the tokens before agreed; of a tree, that each node is
        output."""
        own = self._own.get(request, {}).get(source, self._nothing)
        return tuple(_alphas(source, self._shared.get(source, self._nothing), own))


def gains_of(source: Source, alphas: Seq[float]) -> tuple[float, ...]:
    """[positions] chance that each becomes output; never rising."""
    return tuple(accumulate(alphas, min if source.is_tree else mul))


def _priors(source: Source) -> list[float]:
    """[POSITIONS] alpha before anything was seen; of a tree as if it were a chain."""
    return [source.prior ** (i + 1 if source.is_tree else 1) for i in range(POSITIONS)]


def _node_alphas(source: Source, shared: _Counts, own: _Counts) -> list[float]:
    """The same three layers, each node by itself."""
    alphas = []
    for i, prior in enumerate(_priors(source)):
        usual = (shared.accepted[i] + PRIOR_WEIGHT * prior) / (shared.judged[i] + PRIOR_WEIGHT)
        alphas.append((own.accepted[i] + OWN_WEIGHT * usual) / (own.judged[i] + OWN_WEIGHT))
    return alphas


def _alphas(source: Source, shared: _Counts, own: _Counts) -> list[float]:
    """Three layers, each the next one's prior: source, all requests, this request."""
    if source.is_tree:
        return _node_alphas(source, shared, own)
    pooled = (shared.all_accepted + PRIOR_WEIGHT * source.prior) / (
        shared.all_judged + PRIOR_WEIGHT
    )
    own_pooled = (own.all_accepted + OWN_WEIGHT * pooled) / (own.all_judged + OWN_WEIGHT)
    # A request that fails twice as often as others does so at every position.
    worse = (1.0 - own_pooled) / max(1.0 - pooled, 1e-3)
    known = max(shared.longest, own.longest, 1)
    alphas = []
    for i in range(known):
        usual = (shared.accepted[i] + SHARED_WEIGHT * pooled) / (shared.judged[i] + SHARED_WEIGHT)
        expected = max(0.0, 1.0 - (1.0 - usual) * worse)
        alphas.append(
            (own.accepted[i] + SHARED_WEIGHT * expected) / (own.judged[i] + SHARED_WEIGHT)
        )
    # Positions nobody has reached are taken to be like the last one that somebody has.
    return alphas + [alphas[-1]] * (POSITIONS - known)
