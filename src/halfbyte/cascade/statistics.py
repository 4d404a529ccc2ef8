"""What a run did: who proposed what, how much of it was accepted, and where the time went."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Statistics:
    """Counts and seconds of one sequence, or of a whole run (seconds then counted once).

    `outcomes[proposed, accepted]` is how many cycles ended so; all about acceptance follows.
    """

    outcomes: Counter[tuple[int, int]] = field(default_factory=Counter)
    emitted_tokens: int = 0  # kept, after a stop cut the last cycle short
    prompt_tokens: int = 0
    target_forwards: int = 0  # verify calls; prefill is not counted
    draft_forwards: int = 0  # passes over the draft level's weights
    prefill_seconds: float = 0.0
    draft_seconds: float = 0.0
    verify_seconds: float = 0.0
    host_seconds: float = 0.0  # decoding time outside the runtime

    @property
    def cycles(self) -> int:
        """Cycles, one per sequence that took part."""
        return self.outcomes.total()

    @property
    def draft_tokens(self) -> int:
        """Tokens proposed."""
        return sum(proposed * n for (proposed, _), n in self.outcomes.items())

    @property
    def accepted_tokens(self) -> int:
        """Proposed tokens that the target agreed with."""
        return sum(accepted * n for (_, accepted), n in self.outcomes.items())

    @property
    def tau(self) -> float:
        """Mean tokens emitted per target forward, recovered and bonus tokens included."""
        return self.emitted_tokens / self.cycles if self.cycles else 0.0

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
        """Per draft position: agreement with the target where all earlier positions agreed."""
        result = []
        for i, accepted in enumerate(self.accepted_by_position):
            judged = sum(n for (p, a), n in self.outcomes.items() if p > i and a >= i)
            if judged == 0:
                break
            result.append(accepted / judged)
        return result

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
        """Emitted tokens over the time after prefill."""
        return self.emitted_tokens / self.decode_seconds if self.decode_seconds > 0 else 0.0

    def bytes_per_token(self, target_bytes: int, draft_bytes: int) -> float:
        """Weight bytes read per emitted token, from the bytes one forward of a level reads."""
        read = self.target_forwards * target_bytes + self.draft_forwards * draft_bytes
        return read / self.emitted_tokens if self.emitted_tokens else 0.0

    def add(self, other: Statistics) -> None:
        """Add another run's counts and seconds to this one."""
        self.outcomes.update(other.outcomes)
        for name in _SUMMED:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON."""
        return {
            "emitted_tokens": self.emitted_tokens,
            "prompt_tokens": self.prompt_tokens,
            "cycles": self.cycles,
            "target_forwards": self.target_forwards,
            "draft_forwards": self.draft_forwards,
            "draft_tokens": self.draft_tokens,
            "accepted_tokens": self.accepted_tokens,
            "tau": self.tau,
            "alpha": self.alpha,
            "proposed_by_position": self.proposed_by_position,
            "accepted_by_position": self.accepted_by_position,
            "prefill_seconds": self.prefill_seconds,
            "draft_seconds": self.draft_seconds,
            "verify_seconds": self.verify_seconds,
            "host_seconds": self.host_seconds,
        }


_SUMMED = (
    "emitted_tokens",
    "prompt_tokens",
    "target_forwards",
    "draft_forwards",
    "prefill_seconds",
    "draft_seconds",
    "verify_seconds",
    "host_seconds",
)
