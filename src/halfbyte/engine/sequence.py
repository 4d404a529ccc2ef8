"""One request on its way through the engine: its tokens, its pages, how far its KV is committed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from halfbyte.cascade.cascade import Cascade
from halfbyte.cascade.statistics import Statistics
from halfbyte.cascade.verify import Outcome
from halfbyte.config import Level
from halfbyte.engine.output import Output
from halfbyte.engine.pages import PageTable
from halfbyte.sampling.sampler import Sampler
from halfbyte.sampling.shaper import SequenceShaper


class Sequence:
    """Prompt and emitted tokens; the last token is pending (known, its KV not written).

    The forward that runs the end of the prompt also samples the first token after it.
    """

    def __init__(
        self,
        prompt: list[int],
        *,
        table: PageTable,
        sampler: Sampler,
        limit: int,
        stop_ids: frozenset[int],
        watch: Callable[[int], bool] | None = None,
        cascade: Cascade | None = None,
        priority: int = 0,
        deadline: float | None = None,
        shaper: SequenceShaper | None = None,
    ) -> None:
        """`limit`: most tokens to emit. `watch` sees each in order; True ends the sequence.

        `cascade` None: the engine's own. `priority`: lower goes first. `deadline`: on the clock
        that the engine is stepped with. `shaper`: the one of `sampler`, which follows the tokens.
        """
        self.tokens = list(prompt)
        self.prompt_len = len(prompt)
        self.committed_len = 0
        self.table = table
        self.sampler = sampler
        self.limit = limit
        self.stop_ids = stop_ids
        self.watch = watch
        self.cascade = cascade
        self.priority = priority
        self.deadline = deadline
        self.shaper = shaper
        # Prompt positions that are to be scored have to be run.
        self.may_reuse = not sampler.scores_prompt
        self.order = (priority, 0)  # priority, arrival: set by the scheduler
        self.page_names: list[bytes] = []  # of its full pages, kept by the prefix cache
        self.num_sealed = 0  # pages that have been named
        self.cached_len = 0  # prompt tokens that the prefix cache had
        self.output = Output()
        self.finish_reason: str | None = None
        self.statistics = Statistics(prompt_tokens=len(prompt))

    @property
    def pending(self) -> int:
        """The last token, known but without KV."""
        return self.tokens[-1]

    @property
    def page_row(self) -> NDArray[np.int32]:
        """Its pages: [P], -1 past the last."""
        return self.table.row

    @property
    def emitted(self) -> list[int]:
        """Tokens after the prompt."""
        return self.tokens[self.prompt_len :]

    @property
    def emitted_len(self) -> int:
        """Tokens after the prompt, counted."""
        return len(self.tokens) - self.prompt_len

    def emitted_since(self, count: int) -> list[int]:
        """Emitted tokens but the first `count`."""
        return self.tokens[self.prompt_len + count :]

    @property
    def remaining(self) -> int:
        """Tokens it may still emit."""
        return self.limit - self.emitted_len

    @cached_property
    def target(self) -> Level:
        """The level whose output it gets; an engine has given it a cascade, which stays."""
        assert self.cascade is not None
        return self.cascade.target

    @property
    def is_prefilled(self) -> bool:
        """Whether everything before the pending token is committed."""
        return self.committed_len >= len(self.tokens) - 1

    def commit(self, tokens: list[int]) -> None:
        """See `cascade.decoding.Decoding`."""
        self.tokens += tokens
        self.committed_len = len(self.tokens) - 1

    def start(self, pages: list[int], page_size: int) -> None:
        """Take pages for every known token, the first of them already written."""
        self.table.adopt(pages)
        self.table.grow(len(self.tokens))
        self.committed_len = len(pages) * page_size
        self.num_sealed = len(pages)
        if self.emitted_len == 0:
            self.cached_len = self.committed_len

    def release(self) -> None:
        """Give back every page; its KV is computed again when it is admitted again."""
        self.committed_len = 0
        self.num_sealed = 0
        self.table.shrink(0)

    def settle(self, outcome: Outcome) -> int:
        """Keep a cycle's tokens up to the first that ends the sequence; returns how many.

        The outcome is cut to these: a burst may have computed more, past the end.
        """
        kept = self._kept(outcome.tokens)
        dropped = len(outcome.tokens) - kept
        if dropped:
            del self.tokens[-dropped:]
            del outcome.tokens[kept:]
            del outcome.logprobs[kept:]
            self.committed_len = min(self.committed_len, len(self.tokens))
        self.output.add(outcome)
        if self.finish_reason is None and self.remaining == 0:
            self.finish_reason = "length"
        return kept

    def _kept(self, tokens: list[int]) -> int:
        plain = self.watch is None and self.shaper is None
        if plain and self.stop_ids.isdisjoint(tokens):
            return len(tokens)
        for i, token in enumerate(tokens):
            if self.shaper is not None and not self.shaper.advance(token):
                self.finish_reason = "grammar"
                return i
            if self._ends_at(token):
                self.finish_reason = "stop"
                return i + 1
        return len(tokens)

    def _ends_at(self, token: int) -> bool:
        """Whether the text ends: an end token, a whole stop string, the end of the grammar."""
        if token in self.stop_ids:
            return True
        stopped = self.watch is not None and self.watch(token)
        return stopped or (self.shaper is not None and self.shaper.is_complete)
