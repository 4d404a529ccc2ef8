"""Queues of prompts that several variants decode, in turns of a fraction of a second.

A machine shared with others is a fifth slower for seconds on end, so each variant runs for `TURN`
seconds and then the next, all on the same queue, until each has decoded as many tokens as the queue
has. A queue is one prompt, or two for each place of a batch. An untimed round of plain decoding and
`auto` comes first, in which `auto` learns; from then on prompts are in the prefix cache, so that
what is measured is decoding.

A batch stays full, as one that has long been running: the first requests end one after another, cut
short, and when one ends the next of the queue begins, from its start again where need be.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle

from benchmarks.decoding.speculation import Variant, by_variant
from benchmarks.measure.workloads import Workload, token_ids
from halfbyte import LLM, SamplingParams
from halfbyte.api.request import Request
from halfbyte.cascade.statistics import Statistics

AUTO = "auto"
QUEUED = 2  # prompts for each place of a batch, from 2 on
TURN = 0.25  # seconds of decoding


@dataclass(slots=True)
class Runs:
    """One variant on one kind of work at one batch size."""

    speeds: list[float] = field(default_factory=list)  # tokens/s of each round
    total: Statistics = field(default_factory=Statistics)
    outputs: list[list[int]] = field(default_factory=list)  # of the first round
    cycles: Counter[tuple[int, int]] = field(default_factory=Counter)  # (sequences, proposed)
    queues: list[float] = field(default_factory=list)  # tokens/s of each queue of each round
    contexts: list[float] = field(default_factory=list)  # halfway through decoding

    @property
    def context(self) -> float:
        """Their mean."""
        return statistics.mean(self.contexts)


def num_prompts(batch: int, least: int) -> int:
    """Of a round: whole queues."""
    length = queue_length(batch)
    return -(-least // length) * length


def queue_length(batch: int) -> int:
    """Prompts that one measurement begins with."""
    return 1 if batch == 1 else QUEUED * batch


def limit(number: int, batch: int, tokens: int) -> int:
    """Tokens of the request of this number, from 0: the first ones end one after another, as in a
    batch that has long been running."""
    return max(1, tokens * min(number + 1, batch) // batch)


def _nothing() -> None:
    pass


def measure(
    llm: LLM,
    variants: Sequence[str],
    prompts: Sequence[Workload],
    batch: int,
    *,
    tokens: int,
    rounds: int,
    before: Callable[[], None] = _nothing,
    between: Callable[[], None] = _nothing,
) -> dict[str, Runs]:
    """`rounds` timed rounds over whole queues of prompts. `llm` is the subject of `auto`, the first
    variant is plain decoding. `before` is called before each timed queue, and `between` whenever
    each variant has had a turn of it."""
    subjects = {name: _subject(llm, name) for name in variants}
    found = {name: Runs() for name in variants}
    learners = [name for name in variants if name == variants[0] or name.startswith(AUTO)]
    length = queue_length(batch)
    for turn in range(rounds + 1):
        taking_part = variants if turn else learners
        this = {name: Runs() for name in taking_part}
        for number, at in enumerate(range(0, len(prompts), length)):
            # Another variant begins each time: none always follows the same neighbour.
            shift = (turn + number) % len(taking_part)
            queue = prompts[at : at + length]
            if turn:
                before()
            decoding = [
                _decode(subjects[name], queue, batch, tokens, this[name])
                for name in [*taking_part[shift:], *taking_part[:shift]]
            ]
            while decoding:
                decoding = [one for one in decoding if next(one, False)]
                if turn:
                    between()
        for name, run in this.items() if turn else ():
            if turn == 1:
                found[name].outputs, found[name].contexts = run.outputs, run.contexts
            found[name].speeds.append(statistics.harmonic_mean(run.queues))
            found[name].queues += run.queues
            found[name].total.add(run.total)
            found[name].cycles += run.cycles
        print(f"round {turn} of {rounds} done", file=sys.stderr, flush=True)
    return found


def _subject(llm: LLM, name: str) -> LLM:
    if name.startswith(AUTO):
        return llm
    variant = Variant.parse(name)
    return by_variant(llm, [variant])[variant].with_cascade(variant.cascade, prefix_cache=True)


def _decode(
    llm: LLM, queue: Sequence[Workload], batch: int, tokens: int, run: Runs
) -> Iterator[bool]:
    """Decode a queue, True after each turn; then add its speed, outputs, statistics, cycles and
    contexts halfway."""
    engine, sequences, following = llm.engine(), [], cycle(queue)
    seen, wanted, began = engine.statistics, len(queue) * (tokens - 1), 0.0
    try:
        while seen.emitted_tokens - seen.prefill_emitted < wanted:
            while engine.num_waiting + engine.num_running < batch:
                length = limit(len(sequences), batch, tokens)
                params = SamplingParams(temperature=0.0, max_tokens=length, ignore_eos=True)
                request = Request(llm.model, token_ids(llm, next(following)), params)
                sequences.append(request.sequence)
                engine.add(sequences[-1])
            size, proposed, before = seen.cycles, seen.draft_tokens, seen.target_forwards
            engine.step()
            if seen.cycles > size:
                forwards = seen.target_forwards - before  # several in a burst, all plain
                sequences_each = math.ceil((seen.cycles - size) / forwards)
                run.cycles[sequences_each, seen.draft_tokens - proposed] += forwards
            if seen.decode_seconds - began >= TURN:
                yield True
                began = seen.decode_seconds
    finally:
        engine.close()
    run.total.add(seen)
    run.queues.append(seen.tokens_per_second)
    run.outputs += [s.emitted for s in sequences[: len(queue)]]
    run.outputs += [[] for _ in queue[len(sequences) :]]
    run.contexts += [s.prompt_len + tokens / 2 for s in sequences]


def agree(ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]]) -> bool:
    """Whether outputs are the same as far as both came; the last of a queue are cut off."""
    pairs = list(zip(ours, theirs, strict=True))
    same = all(a[: len(b)] == b[: len(a)] for a, b in pairs)
    return same and any(a and b for a, b in pairs)
