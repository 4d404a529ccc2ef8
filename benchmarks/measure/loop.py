"""The measuring loop: queues of prompts that several variants decode in turns.

On a shared machine speed can differ by a fifth for seconds on end. So each variant decodes for
`TURN` seconds, then the next one does, all on the same queue, until each has decoded as many tokens
as the queue has. A queue is one prompt, or two per place of a batch. An untimed round comes first:
a planner learns in it, and from then on prompts are in the prefix cache, so that decoding is what
the timed rounds measure.

A batch stays full, as in a server that N users keep busy: the first requests are cut short, so that
they end one after another, and when one ends the next of the queue begins, from the queue's start
again if need be.

    queue of a batch of 2:   a ··   b ····   c ····   d ····   a …
    running                  a b    b c      c d      …
"""

from __future__ import annotations

import math
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from itertools import cycle
from typing import Protocol, TypeVar

from halfbyte.cascade.statistics import Statistics
from halfbyte.engine.engine import Engine
from halfbyte.engine.sequence import Sequence

P_contra = TypeVar("P_contra", contravariant=True)
Prompt = TypeVar("Prompt")

Output = list[tuple[int, float]]  # tokens and their logprobs
QUEUED = 2  # prompts per place of a batch, from 2 on
TURN = 0.25  # seconds of decoding


class Subject(Protocol[P_contra]):
    """A variant that can decode prompts; it keeps what it learns from queue to queue."""

    def engine(self) -> Engine:
        """An engine with no work."""

    def sequence(self, prompt: P_contra, limit: int) -> Sequence:
        """A request for exactly `limit` tokens after a prompt."""


@dataclass(slots=True)
class Runs:
    """One variant on one kind of work at one batch size."""

    rounds: list[Statistics] = field(default_factory=list)  # of each timed round
    queues: list[float] = field(default_factory=list)  # tokens/s of each queue of each round
    outputs: list[Output] = field(default_factory=list)  # of the first timed round
    contexts: list[float] = field(default_factory=list)  # halfway through decoding
    cycles: Counter[tuple[int, int]] = field(default_factory=Counter)  # (sequences, proposed)

    @property
    def speeds(self) -> list[float]:
        """Tokens per second of each round: the harmonic mean over its queues."""
        each = len(self.queues) // len(self.rounds)
        starts = range(0, len(self.queues), each)
        return [statistics.harmonic_mean(self.queues[at : at + each]) for at in starts]

    @property
    def total(self) -> Statistics:
        """Of all rounds."""
        total = Statistics()
        for one in self.rounds:
            total.add(one)
        return total

    @property
    def context(self) -> float:
        """The mean context halfway through decoding."""
        return statistics.mean(self.contexts)


def num_prompts(batch: int, least: int) -> int:
    """Prompts of a round: whole queues."""
    length = queue_length(batch)
    return -(-least // length) * length


def queue_length(batch: int) -> int:
    """Prompts that one measurement begins with."""
    return 1 if batch == 1 else QUEUED * batch


def limit(number: int, batch: int, tokens: int) -> int:
    """Tokens of request `number`, from 0: the first ones end one after another."""
    return max(1, tokens * min(number + 1, batch) // batch)


def _nothing() -> None:
    pass


def measure(
    subjects: Mapping[str, Subject[Prompt]],
    prompts: Seq[Prompt],
    batch: int,
    *,
    tokens: int,
    rounds: int,
    warming: Collection[str],
    is_closed: bool = False,
    before: Callable[[], None] = _nothing,
    between: Callable[[], None] = _nothing,
) -> dict[str, Runs]:
    """`rounds` timed rounds over whole queues of prompts; only `warming` run in the untimed one.

    `is_closed`: a queue is one prompt per place, all begin together, and no other joins them.
    `before` is called before each timed queue, `between` after every variant has had a turn of it.
    """
    found = {name: Runs() for name in subjects}
    length = batch if is_closed else queue_length(batch)
    queues = [prompts[at : at + length] for at in range(0, len(prompts) - length + 1, length)]
    for turn in range(rounds + 1):
        names = [name for name in subjects if turn or name in warming]
        into = found if turn else {name: Runs() for name in names}
        for name in names:
            into[name].rounds.append(Statistics())
        for number, queue in enumerate(queues):
            # Another variant begins each time: none always follows the same neighbour.
            shift = (turn + number) % len(names)
            if turn:
                before()
            decoding = [
                _decode(subjects[name], queue, batch, tokens, into[name], is_closed=is_closed)
                for name in [*names[shift:], *names[:shift]]
            ]
            while decoding:
                decoding = [one for one in decoding if next(one, False)]
                if turn:
                    between()
        if rounds > 1:
            print(f"round {turn} of {rounds} done", file=sys.stderr, flush=True)
    return found


def _decode(
    subject: Subject[Prompt],
    queue: Seq[Prompt],
    batch: int,
    tokens: int,
    runs: Runs,
    *,
    is_closed: bool,
) -> Iterator[bool]:
    """Decode a queue, True after each turn; then add what it was to `runs`."""
    engine, following = subject.engine(), iter(queue) if is_closed else cycle(queue)
    sequences: list[Sequence] = []
    seen, wanted, began = engine.statistics, len(queue) * (tokens - 1), 0.0
    try:
        while seen.decoded_tokens < wanted:
            while engine.num_waiting + engine.num_running < batch:
                prompt = next(following, None)
                if prompt is None:
                    break
                most = tokens if is_closed else limit(len(sequences), batch, tokens)
                sequences.append(subject.sequence(prompt, most))
                engine.add(sequences[-1])
            size, proposed, before = seen.cycles, seen.draft_tokens, seen.target_forwards
            engine.step()
            if seen.cycles > size:
                forwards = seen.target_forwards - before  # several in a burst, all plain
                sequences_each = math.ceil((seen.cycles - size) / forwards)
                runs.cycles[sequences_each, seen.draft_tokens - proposed] += forwards
            if seen.decode_seconds - began >= TURN:
                yield True
                began = seen.decode_seconds
    finally:
        engine.close()
    if len(runs.rounds) == 1:
        runs.outputs += [_output(s) for s in sequences[: len(queue)]]
        runs.outputs += [[] for _ in queue[len(sequences) :]]
    runs.rounds[-1].add(seen)
    runs.queues.append(seen.tokens_per_second)
    runs.contexts += [s.prompt_len + tokens / 2 for s in sequences]


def _output(sequence: Sequence) -> Output:
    return list(zip(sequence.emitted, sequence.output.logprobs, strict=True))


def agree(ours: Seq[Seq[object]], theirs: Seq[Seq[object]]) -> bool:
    """Whether outputs are equal as far as both reach: the last of a queue are cut off."""
    pairs = list(zip(ours, theirs, strict=True))
    same = all(a[: len(b)] == b[: len(a)] for a, b in pairs)
    return same and any(a and b for a, b in pairs)
