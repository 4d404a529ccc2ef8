"""What a cycle would bring and cost, and the best of all cycles: the planner's arithmetic.

For a batch, with proposals of length k_b by some proposer for each sequence b:

    tokens   = sum over b of  1 + g_b1 + … + g_bk        g: chance that a proposed token is output
    seconds  = drafting passes + T(target, sum over b of 1 + k_b, contexts) + host

and the best cycle has the most tokens per second. For one sequence that is SpecMQuant's equation 1
(arXiv 2505.22179): speedup = tau / (d * T_draft / T_target + T_verify / T_target).
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from typing import NamedTuple

from halfbyte.planner.candidates import CONTEXT_STEP, Arm
from halfbyte.planner.cost_table import CostTable

PLAIN_ARM = -1
FURTHER_ROWS = 48  # over so many the price of a row is averaged, where that is least

Gains = Seq[Seq[float] | None]  # of each sequence: chance by position; None: nothing to propose


class Cycle(NamedTuple):
    """One way to run a cycle: who proposes how much for each sequence, and what that promises."""

    arms: tuple[int, ...]  # PLAIN_ARM or an index
    lengths: tuple[int, ...]
    tokens: float  # expected
    draft_seconds: float
    rows: int
    attention_seconds: float  # of the verify
    verify_seconds: float
    host_seconds: float

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.draft_seconds + self.verify_seconds + self.host_seconds

    @property
    def rate(self) -> float:
        """Expected tokens per second."""
        return self.tokens / self.seconds


def _no_drift(key: int) -> float:
    return 1.0


class Forecaster:
    """Prices cycles with a cost table and factors on it; remembers what it has looked up."""

    def __init__(
        self,
        target: str,
        table: CostTable,
        arms: Seq[Arm],
        drift: Callable[[int], float] = _no_drift,
    ) -> None:
        """`drift` gives the factor on the cost of an arm, by its index, or of a `verify_key`."""
        self.target, self._table, self._arms = target, table, arms
        self.drift = drift
        self._linear: list[float] = [0.0]
        self._keys: list[int] = [0]  # `verify_key` of each count of rows
        self._further: list[float] = [0.0]  # `row_seconds`
        self._attention: dict[int, tuple[float, float]] = {}
        self.charges: dict[int, Seq[float]] = {}  # arm -> [B] seconds beside, with each token
        self.host_seconds = 0.0  # of a plain cycle outside the runtime
        self.proposing_host_seconds = 0.0  # of a cycle in which anything is proposed

    def plain(self, contexts: Seq[int]) -> Cycle:
        """Nothing proposed."""
        attention = sum(self.attention(c)[0] for c in contexts)
        rows = len(contexts)
        return Cycle(
            (PLAIN_ARM,) * rows,
            (0,) * rows,
            float(rows),
            0.0,
            rows,
            attention,
            self.verify_seconds(rows, attention),
            self.host_seconds,
        )

    def extended(
        self,
        base: Cycle,
        arm: int,
        members: Seq[int],
        gains: Gains,
        contexts: Seq[int],
        rate: float,
    ) -> Cycle:
        """`base` with the best proposals of one arm for some of its plain sequences.

        A further token is proposed where its chance pays for its row at `rate` tokens a second, and
        as many as are best: T is a staircase, so a length can be worse than its neighbours.
        Returns `base` itself where that is best.
        """
        cost, drift = self._arms[arm].cost, self.drift(arm)
        host, depth = self.proposing_host_seconds, self._arms[arm].depth
        charges = self.charges.get(arm)
        active = [b for b in members if gains[b] is not None]
        tokens, rows, draft = base.tokens, base.rows, base.draft_seconds
        attention = base.attention_seconds
        best, best_length = base.rate, 0
        found = (tokens, draft, rows, attention, base.verify_seconds)
        proposed: list[list[int]] = []
        known = [len(gains[b]) for b in active]  # type: ignore[arg-type]
        count, reading, more, spent = 0, 0.0, 0.0, 0.0
        for step in range(min([self._arms[arm].max_length, *known])):
            if len(active) > 1:
                price = rate * self._row_price(rows, len(active), cost.pass_seconds)
                active = [b for b in active if gains[b][step] > price]  # type: ignore[index]
            if not active:
                break
            if len(active) != count:  # what does not change from step to step is summed once
                count, near = len(active), [self.attention(contexts[b]) for b in active]
                reading = 0.0
                if cost.reads_context:
                    reading = sum(cost.context_seconds(contexts[b]) for b in active)
                more = sum(each for _, each in near)
                spent = (cost.pass_seconds(count, first=False) + reading) * drift
            if step == 0:
                draft += (cost.pass_seconds(count, first=True) + reading) * drift
            elif step < depth:
                draft += spent
            if charges is not None:  # for what a model has not read, a share with each token
                now_due = [gains[b][step] + (step == 0) for b in active]  # type: ignore[index]
                draft += sum(charges[b] * n for b, n in zip(active, now_due, strict=True))
            for b in active:
                tokens += gains[b][step]  # type: ignore[index]
            attention += more
            rows += count
            proposed.append(active)
            verify = self.verify_seconds(rows, attention)
            now = tokens / (draft + verify + host)
            if now > best:
                best, best_length = now, step + 1
                found = (tokens, draft, rows, attention, verify)
        if not best_length:
            return base
        arms, lengths = list(base.arms), list(base.lengths)
        for members_of_step in proposed[:best_length]:
            for b in members_of_step:
                arms[b] = arm
                lengths[b] += 1
        return Cycle(tuple(arms), tuple(lengths), *found, host)

    def without(
        self, cycle: Cycle, members: Seq[int], gains: Seq[Gains], contexts: Seq[int]
    ) -> Cycle:
        """`cycle` where `members` propose nothing."""
        arms, lengths = list(cycle.arms), list(cycle.lengths)
        tokens, rows, attention = cycle.tokens, cycle.rows, cycle.attention_seconds
        for b in members:
            chances = gains[arms[b]][b] if arms[b] != PLAIN_ARM else None
            if chances is not None:
                tokens -= sum(chances[: lengths[b]])
                rows -= lengths[b]
                attention -= lengths[b] * self.attention(contexts[b])[1]
            arms[b], lengths[b] = PLAIN_ARM, 0
        draft = 0.0
        for arm in set(arms) - {PLAIN_ARM}:
            own = [n if a == arm else 0 for n, a in zip(lengths, arms, strict=True)]
            draft += self.draft_seconds(arm, own, contexts) * self.drift(arm)
        verify = self.verify_seconds(rows, attention)
        host = self.proposing_host_seconds if any(lengths) else self.host_seconds
        return Cycle(tuple(arms), tuple(lengths), tokens, draft, rows, attention, verify, host)

    def attention(self, context: int) -> tuple[float, float]:
        """Seconds of one row at a context, and of each row more."""
        key = context // CONTEXT_STEP
        found = self._attention.get(key)
        if found is None:
            middle = (key + 0.5) * CONTEXT_STEP
            one = self._table.attention_seconds(1, middle)
            five = self._table.attention_seconds(5, middle)
            found = self._attention[key] = (one, max(0.0, (five - one) / 4))
        return found

    def linear_seconds(self, rows: int) -> float:
        """The target's weights over `rows` rows."""
        while len(self._linear) <= rows:
            self._keys.append(verify_key(len(self._linear)))
            self._linear.append(self._table.linear_seconds(self.target, len(self._linear)))
        return self._linear[rows]

    def verify_seconds(self, rows: int, attention: float) -> float:
        """One target forward."""
        # As `linear_seconds`, in place: this runs for every length of every arm.
        linear = self._linear[rows] if rows < len(self._linear) else self.linear_seconds(rows)
        return (linear + attention) * self.drift(self._keys[rows])

    def verifies(self, first: int, count: int) -> list[tuple[float, float]]:
        """Of forwards of `first` rows and each count above: `linear_seconds`, and the factor on it
        and on attention."""
        self.linear_seconds(first + count)
        rows = slice(first, first + count)
        return list(zip(self._linear[rows], map(self.drift, self._keys[rows]), strict=True))

    def row_seconds(self, rows: int) -> float:
        """Of each further row, for as many as make it least: rows come by the tile."""
        while len(self._further) <= rows:
            at = len(self._further)
            now = self.linear_seconds(at)
            least = min((self.linear_seconds(at + n) - now) / n for n in range(1, FURTHER_ROWS + 1))
            self._further.append(least)
        return self._further[rows]

    def draft_seconds(self, arm: int, lengths: Seq[int], contexts: Seq[int]) -> float:
        """One call of an arm, without drift."""
        cost, total = self._arms[arm].cost, 0.0
        for step in range(min(max(lengths, default=0), self._arms[arm].depth)):
            active = [c for n, c in zip(lengths, contexts, strict=True) if n > step]
            total += cost.pass_seconds(len(active), first=step == 0)
            if cost.reads_context:
                total += sum(map(cost.context_seconds, active))
        return total

    def _row_price(self, rows: int, count: int, pass_seconds: Callable[..., float]) -> float:
        """Seconds that one of `count` further rows costs, in the verify and in the draft."""
        draft = pass_seconds(count, first=False) - pass_seconds(1, first=False)
        return self.row_seconds(rows) + draft / (count - 1)


def verify_key(rows: int) -> int:
    """Under which a verify's drift is kept, below the arms: each count of rows up to 15, from
    there on eight an octave."""
    shift = max(0, rows.bit_length() - 4)
    return -(8 * shift + (rows >> shift))
