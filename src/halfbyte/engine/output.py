"""What there is to know of a sequence's tokens besides their ids."""

from __future__ import annotations

from dataclasses import dataclass, field

from halfbyte.cascade.scores import Tops
from halfbyte.cascade.verify import Fate, Outcome


@dataclass(slots=True)
class Output:
    """One entry per emitted token; of the prompt, one per token but the first."""

    logprobs: list[float] = field(default_factory=list)
    fates: list[Fate] = field(default_factory=list)
    tops: list[Tops] = field(default_factory=list)  # the most likely tokens, where asked for
    scores: list[float] = field(default_factory=list)  # logprobs of the prompt, where asked for
    score_tops: list[Tops] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """Take what belongs to the tokens that are left in an outcome."""
        kept = len(outcome.tokens)
        self.logprobs += outcome.logprobs
        self.fates += outcome.fates()[:kept]
        self.tops += outcome.tops[:kept]

    def add_scores(self, outcome: Outcome, first: int, prompt_len: int) -> None:
        """Take the scores of the prompt tokens after position `first`.

        What is run again, or is no longer the prompt, is not taken again.
        """
        new = slice(len(self.scores) - first, prompt_len - 1 - first)
        self.scores += outcome.scores[new]
        self.score_tops += outcome.score_tops[new]
