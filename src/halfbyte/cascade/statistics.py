"""What a run did: what each stage proposed, how much was accepted, where the time went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Any

from halfbyte.cascade.cycle import CycleReport
from halfbyte.cascade.proposer import Link


@dataclass(slots=True)
class Agreement:
    """`outcomes[proposed, accepted]`: how often a judge's look at proposals ended so."""

    outcomes: Counter[tuple[int, int]] = field(default_factory=Counter)

    @property
    def cycles(self) -> int:
        """Looks; one per sequence that took part."""
        return self.outcomes.total()

    @property
    def draft_tokens(self) -> int:
        """Tokens proposed."""
        return sum(proposed * n for (proposed, _), n in self.outcomes.items())

    @property
    def accepted_tokens(self) -> int:
        """Proposed tokens that the judge agreed with."""
        return sum(accepted * n for (_, accepted), n in self.outcomes.items())

    @property
    def proposed_by_position(self) -> list[int]:
        """How often a token was proposed at draft position 0, 1, …"""
        longest = max((proposed for proposed, _ in self.outcomes), default=0)
        return [sum(n for (p, _), n in self.outcomes.items() if p > i) for i in range(longest)]

    @property
    def accepted_by_position(self) -> list[int]:
        """How often the token at draft position 0, 1, … was accepted."""
        longest = len(self.proposed_by_position)
        return [sum(n for (_, a), n in self.outcomes.items() if a > i) for i in range(longest)]

    @property
    def alpha(self) -> list[float]:
        """Per draft position: agreement with the judge where all earlier positions agreed."""
        result = []
        for i, accepted in enumerate(self.accepted_by_position):
            judged = sum(n for (p, a), n in self.outcomes.items() if p > i and a >= i)
            if judged == 0:
                break
            result.append(accepted / judged)
        return result

    def _acceptance(self) -> dict[str, Any]:
        return {
            "draft_tokens": self.draft_tokens,
            "accepted_tokens": self.accepted_tokens,
            "alpha": self.alpha,
            "proposed_by_position": self.proposed_by_position,
            "accepted_by_position": self.accepted_by_position,
        }


@dataclass(slots=True)
class LinkStatistics(Agreement):
    """One proposer and its judge, `ngram > w4a8`, over many cycles."""

    forwards: int = 0  # passes over the proposer's weights
    bytes_read: int = 0  # of them
    seconds: float = 0.0  # the proposer's own

    @property
    def tau(self) -> float:
        """Mean tokens the judge gave for one look, its own token included."""
        return 1.0 + self.accepted_tokens / self.cycles if self.cycles else 0.0

    def count(self, link: Link) -> None:
        """Add the cost of a link of one cycle; its outcomes are counted apart."""
        self.forwards += link.forwards
        self.bytes_read += link.bytes_read
        self.seconds += link.seconds

    def add(self, other: LinkStatistics) -> None:
        """Add another run's counts and seconds."""
        self.outcomes.update(other.outcomes)
        self.forwards += other.forwards
        self.bytes_read += other.bytes_read
        self.seconds += other.seconds

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON."""
        return {
            "cycles": self.cycles,
            "forwards": self.forwards,
            "tau": self.tau,
            **self._acceptance(),
            "seconds": self.seconds,
        }


@dataclass(slots=True)
class Statistics(Agreement):
    """Counts and seconds of one sequence, or of a whole run (seconds then counted once).

    Its own outcomes are those of the target, whichever stage proposed; `links` tells the stages
    apart.
    """

    emitted_tokens: int = 0  # kept, after a stop cut the last cycle short
    prefill_emitted: int = 0  # of them, sampled by the forward that ran the end of the prompt
    prompt_tokens: int = 0
    cached_tokens: int = 0  # of the prompt, found in the prefix cache
    target_forwards: int = 0  # verify calls; prefill is not counted
    prefill_seconds: float = 0.0
    draft_seconds: float = 0.0
    verify_seconds: float = 0.0
    host_seconds: float = 0.0  # decoding time outside the runtime
    links: dict[str, LinkStatistics] = field(default_factory=dict)  # "ngram > w4a8" -> …

    @property
    def draft_forwards(self) -> int:
        """Passes over the weights of every stage but the target."""
        return sum(link.forwards for link in self.links.values())

    @property
    def tau(self) -> float:
        """Mean tokens emitted per target forward, recovered and bonus tokens included."""
        return self.decoded_tokens / self.cycles if self.cycles else 0.0

    @property
    def decoded_tokens(self) -> int:
        """Tokens emitted by cycles: all but what prefill sampled."""
        return self.emitted_tokens - self.prefill_emitted

    @property
    def decode_seconds(self) -> float:
        """Time after prefill."""
        return self.draft_seconds + self.verify_seconds + self.host_seconds

    @property
    def seconds(self) -> float:
        """Prefill and decoding."""
        return self.prefill_seconds + self.decode_seconds

    @property
    def tokens_per_second(self) -> float:
        """Tokens emitted by cycles over the time these took."""
        return self.decoded_tokens / self.decode_seconds if self.decode_seconds > 0 else 0.0

    @property
    def time_shares(self) -> dict[str, float]:
        """Decoding time by consumer: each link's proposer, `verify`, and the rest, `host`."""
        total = self.decode_seconds
        if total <= 0:
            return {}
        shares = {name: link.seconds / total for name, link in self.links.items()}
        shares["verify"] = self.verify_seconds / total
        return shares | {"host": max(0.0, 1.0 - sum(shares.values()))}

    def bytes_per_token(self, target_bytes: int) -> float:
        """Weight bytes read per token emitted, both by cycles; `target_bytes`: one forward's."""
        drafts = sum(link.bytes_read for link in self.links.values())
        read = self.target_forwards * target_bytes + drafts
        return read / self.decoded_tokens if self.decoded_tokens else 0.0

    def link(self, name: str) -> LinkStatistics:
        """Those of a link, `proposer > judge`."""
        found = self.links.get(name)
        if found is None:
            found = self.links[name] = LinkStatistics()
        return found

    def copy(self) -> Statistics:
        """The same counts, which later cycles do not change."""
        copied = Statistics()
        copied.add(self)
        return copied

    def add(self, other: Statistics) -> None:
        """Add another run's counts and seconds to this one."""
        self.outcomes.update(other.outcomes)
        for name, link in other.links.items():
            self.link(name).add(link)
        for name in _SUMMED:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON."""
        return {
            "emitted_tokens": self.emitted_tokens,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "cycles": self.cycles,
            "target_forwards": self.target_forwards,
            "draft_forwards": self.draft_forwards,
            "tau": self.tau,
            **self._acceptance(),
            "prefill_seconds": self.prefill_seconds,
            "draft_seconds": self.draft_seconds,
            "verify_seconds": self.verify_seconds,
            "host_seconds": self.host_seconds,
            "time_shares": self.time_shares,
            "links": {name: link.as_dict() for name, link in self.links.items()},
        }


def record_step(
    report: CycleReport,
    kept: Seq[int],
    seconds: float,
    total: Statistics,
    decoding: Seq[Statistics],
    prompts: Seq[Statistics],
) -> None:
    """Count a step of `seconds`, once for the run and once for every sequence that waited for it.

    The report's sequences are those that decode and then those whose prompt ended, the first of
    `prompts`; each kept so many tokens. The forward's time is shared between prompts and cycles by
    rows; without a cycle all of the step is prefill.
    """
    prefill = 0.0
    if report.prompt_rows:
        prefill = report.verify_seconds * report.prompt_rows / report.rows
    if decoding:
        host = seconds - report.draft_seconds - report.verify_seconds
        for statistics in (total, *decoding):
            statistics.target_forwards += report.target_forwards
            statistics.draft_seconds += report.draft_seconds
            statistics.verify_seconds += report.verify_seconds - prefill
            statistics.host_seconds += host
    else:
        prefill = seconds
    if prompts:
        total.prefill_seconds += prefill
    for own in prompts:
        own.prefill_seconds += prefill
    for own, outcome, count in zip(decoding, report.outcomes, kept, strict=False):
        own.emitted_tokens += count
        key = outcome.proposed, outcome.accepted
        cycles = 1 if outcome.proposed else count
        # As `+=`, in less time: this runs for every sequence of every step.
        own.outcomes[key] = own.outcomes.get(key, 0) + cycles
        total.outcomes[key] = total.outcomes.get(key, 0) + cycles
    total.emitted_tokens += sum(kept)
    for own, count in zip(prompts, kept[len(decoding) :], strict=False):
        own.emitted_tokens += count
        own.prefill_emitted += count
        total.prefill_emitted += count
    for link in report.links:
        _record_link(link, total, decoding)


def _record_link(link: Link, total: Statistics, each: Seq[Statistics]) -> None:
    of_all = total.link(link.name)
    of_all.count(link)
    for i in {i for i, _, _ in link.rounds}:
        each[i].link(link.name).count(link)
    for i, proposed, accepted in link.rounds:
        each[i].link(link.name).outcomes[proposed, accepted] += 1
        of_all.outcomes[proposed, accepted] += 1


_SUMMED = (
    "emitted_tokens",
    "prefill_emitted",
    "prompt_tokens",
    "cached_tokens",
    "target_forwards",
    "prefill_seconds",
    "draft_seconds",
    "verify_seconds",
    "host_seconds",
)
