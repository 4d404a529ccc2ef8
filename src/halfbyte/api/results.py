"""What a request gives back."""

from __future__ import annotations

from dataclasses import dataclass, field

from halfbyte.cascade.scores import Tops
from halfbyte.cascade.statistics import Statistics
from halfbyte.cascade.verify import Fate


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished request. `token_ids`, `logprobs` and `fates` have one entry per token."""

    prompt_token_ids: list[int]
    token_ids: list[int]
    text: str
    logprobs: list[float]  # log-softmax of the raw target logits
    fates: list[Fate]
    # stop (end token, stop token, stop string, end of a grammar) | length | cancelled | deadline |
    # grammar (it could not be followed further within its limits)
    finish_reason: str
    seed: int  # the one used, so that a run without a seed can be repeated
    statistics: Statistics
    # [(token, logprob), …] beside each token, best first; None: not asked for. So for the prompt,
    # whose first token has no logprob.
    top_logprobs: list[Tops] | None = None
    prompt_logprobs: list[float | None] | None = None
    prompt_top_logprobs: list[Tops | None] | None = None
    others: list[Completion] = field(default_factory=list)  # with n > 1: the answers after this

    @property
    def cumulative_logprob(self) -> float:
        """Sum over the tokens."""
        return sum(self.logprobs)

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens that the prefix cache had."""
        return self.statistics.cached_tokens


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one cycle added to a stream; the last one carries the whole completion."""

    token_ids: list[int]
    pieces: list[str]  # text that each token completed; empty while a character is unfinished
    logprobs: list[float]
    fates: list[Fate]
    completion: Completion | None = None
    top_logprobs: list[Tops] | None = None  # beside each token
    tail: str = ""  # text held back that a chunk without a token lets go

    @property
    def text(self) -> str:
        """What this chunk adds to the text."""
        return "".join(self.pieces) + self.tail
