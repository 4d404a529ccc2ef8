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

from collections.abc import Collection
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
# Proposals of others after which a request's estimate is made again: so many, or that share of all
# there were, of which this many last.
REFRESH, REFRESH_SHARE, LASTING = 8, 1 / 16, 512


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
    fade: float = SHARED_FADE  # of what all requests showed, with each proposal


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


class _Shared(_Counts):
    """Counts of all requests, and what one that has shown nothing is expected to do."""

    __slots__ = ("alphas", "gains", "known", "pooled", "source")

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.source = source
        self.known = -1  # proposals seen when the rest was made
        self.pooled = source.prior  # alpha of any position; of a tree unused
        self.alphas: tuple[float, ...] = ()  # [POSITIONS]
        self.gains: tuple[float, ...] = ()

    def up_to_date(self) -> None:
        """Make it again if anything is new."""
        if self.seen == self.known:
            return
        self.known = self.seen
        source = self.source
        if source.is_tree:
            priors = _priors(source)
        else:
            weight = self.all_judged + PRIOR_WEIGHT
            self.pooled = (self.all_accepted + PRIOR_WEIGHT * source.prior) / weight
            priors = [self.pooled] * max(self.longest, 1)
        prior_weight = PRIOR_WEIGHT if source.is_tree else SHARED_WEIGHT
        alphas = [
            (accepted + prior_weight * prior) / (judged + prior_weight)
            for prior, accepted, judged in zip(priors, self.accepted, self.judged, strict=False)
        ]
        # Positions not reached yet are taken to be like the last one that was reached.
        self.alphas = tuple(alphas + alphas[-1:] * (POSITIONS - len(alphas)))
        self.gains = gains_of(source, self.alphas)


class _Estimate:
    """What one request is expected to do, kept until more is known."""

    __slots__ = ("first", "gains", "until")

    def __init__(self, first: float, until: float) -> None:
        self.first = first  # gain of the first position
        self.gains: tuple[float, ...] | None = None  # made when they are asked for
        self.until = until  # proposals of all requests


class Acceptance:
    """Counts of every source, shared and by request. One caller at a time."""

    def __init__(self) -> None:
        self._shared: dict[Source, _Shared] = {}
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
        estimates = self._estimates.get(request)
        if estimates is not None:
            estimates.pop(source, None)
        for counts, fade in ((self._of_all(source), source.fade), (own, OWN_FADE)):
            if source.is_tree:
                counts.add_nodes(asked, tree or (), fade, step)
            else:
                counts.add(asked, accepted, fade, step)

    def forget(self, request: object) -> None:
        """The request ended; what it showed stays in what all showed."""
        self._own.pop(request, None)
        self._estimates.pop(request, None)

    def first_gains(self, sources: Seq[Source], request: object) -> list[float]:
        """[sources] the first of each one's `gains`."""
        # A review asks this of every sequence.
        own, found = self._own.get(request, {}), []
        for source in sources:
            shared, counts = self._of_all(source), own.get(source)
            if shared.seen != shared.known:
                shared.up_to_date()
            first = shared.gains[0]
            if counts is not None:
                first = self._estimate(shared, counts, request).first
            found.append(first)
        return found

    def gains(self, source: Source, request: object) -> tuple[float, ...]:
        """[POSITIONS] chance that the token at each position becomes output; never rising."""
        shared, own = self._known(source, request)
        if own is None:
            return shared.gains
        estimate = self._estimate(shared, own, request)
        if estimate.gains is None:
            estimate.gains = gains_of(source, _alphas(shared, own))
            estimate.first = estimate.gains[0]
        return estimate.gains

    def hopeful_gains(self, source: Source, request: object, step: int) -> tuple[float, ...]:
        """`gains` if every alpha were as high as what was seen, and when, still allows."""
        shared, own = self._known(source, request)
        own = own or self._nothing
        fresh_shared = 0.5 ** ((step - shared.step) / STALE_AFTER)
        fresh = max(fresh_shared, 0.5 ** ((step - own.step) / STALE_AFTER) if own.seen else 0.0)
        evidence = PRIOR_WEIGHT
        evidence += (min(shared.all_judged, OWN_WEIGHT) + own.all_judged) * fresh
        hopes = []
        for prior, alpha in zip(_priors(source), _alphas(shared, own), strict=True):
            mean = prior + (alpha - prior) * fresh
            hopes.append(min(1.0, mean + HOPE * sqrt(max(mean * (1.0 - mean), 0.01) / evidence)))
        return gains_of(source, hopes)

    def shown(self, request: object) -> Collection[Source]:
        """The sources that proposed for the request; of others it is like any new one."""
        return self._own.get(request, {})

    def judged(self, source: Source) -> float:
        """Faded count of tokens that the target judged, over all requests."""
        return self._of_all(source).all_judged

    def alphas(self, source: Source, request: object = None) -> tuple[float, ...]:
        """[POSITIONS] agreement given that the tokens before agreed; of a tree, that each node is
        output."""
        shared, own = self._known(source, request)
        return tuple(_alphas(shared, own or self._nothing))

    def _of_all(self, source: Source) -> _Shared:
        found = self._shared.get(source)
        if found is None:
            found = self._shared[source] = _Shared(source)
        return found

    def _known(self, source: Source, request: object) -> tuple[_Shared, _Counts | None]:
        """What all have shown, and what the request has; None: nothing."""
        shared = self._of_all(source)
        shared.up_to_date()
        own = self._own.get(request)
        return shared, None if own is None else own.get(source)

    def _estimate(self, shared: _Shared, own: _Counts, request: object) -> _Estimate:
        estimates = self._estimates.setdefault(request, {})
        found = estimates.get(shared.source)
        if found is None or shared.seen >= found.until:
            first = _alphas(shared, own, 1)[0]
            more = max(REFRESH, REFRESH_SHARE * min(shared.seen, LASTING))
            found = estimates[shared.source] = _Estimate(first, shared.seen + more)
        return found


def gains_of(source: Source, alphas: Seq[float]) -> tuple[float, ...]:
    """[positions] chance that each becomes output; never rising."""
    return tuple(accumulate(alphas, min if source.is_tree else mul))


def _priors(source: Source) -> list[float]:
    """[POSITIONS] alpha before anything was seen; of a tree as if it were a chain."""
    return [source.prior ** (i + 1 if source.is_tree else 1) for i in range(POSITIONS)]


def _alphas(shared: _Shared, own: _Counts, count: int = POSITIONS) -> list[float]:
    """The first `count` of three layers, each the next one's prior: source, all requests, this."""
    usual = shared.alphas[:count]
    weight = OWN_WEIGHT
    if not shared.source.is_tree:
        pooled, weight = shared.pooled, SHARED_WEIGHT
        own_pooled = (own.all_accepted + OWN_WEIGHT * pooled) / (own.all_judged + OWN_WEIGHT)
        # A request that fails twice as often as others does so at every position.
        worse = (1.0 - own_pooled) / max(1.0 - pooled, 1e-3)
        usual = tuple(max(0.0, 1.0 - (1.0 - alpha) * worse) for alpha in usual)
    known = POSITIONS if shared.source.is_tree else max(shared.longest, 1)
    alphas = [
        (accepted + weight * alpha) / (judged + weight)
        for alpha, accepted, judged in zip(usual[:known], own.accepted, own.judged, strict=False)
    ]
    return alphas + alphas[-1:] * (count - len(alphas))
