"""Runs of an engine over a tiny model, and all of a run that must not change."""

from __future__ import annotations

from functools import cache

from halfbyte.cascade.cascade import Cascade
from halfbyte.cascade.planning import FixedPlan, Planner
from halfbyte.engine.engine import Engine
from halfbyte.engine.options import EngineOptions
from halfbyte.engine.pages import PagePool, PageTable
from halfbyte.engine.sequence import Sequence
from halfbyte.formats.weights import Weights
from halfbyte.runtime.protocol import Runtime, SamplingRow
from halfbyte.sampling.sampler import GREEDY, Sampler
from tests.support.runtimes import build, random_tokens
from tests.support.tiny_models import CONFIGS, Kind, make, tiny

TOKENS = 40
SAMPLERS = {
    "greedy": GREEDY,
    "seeded": Sampler(SamplingRow(2**63 + 11, 0.8, 40, 0.95, 0.02)),
}


def prompts() -> list[list[int]]:
    """One that repeats itself, so that `ngram` has something to find, and one that does not."""
    phrase = random_tokens(9, seed=5).tolist()
    return [phrase * 4, random_tokens(37, seed=6).tolist()]


def run(runtime: Runtime, planner: Planner, sampler: Sampler) -> list[Sequence]:
    """Both prompts together, stopped with TOKENS tokens each and their pages still held."""
    pool = PagePool(runtime.num_pages, runtime.page_size)
    engine = Engine(runtime, pool, Cascade.parse("w8a16"), EngineOptions(), lambda _: planner)
    sequences = []
    for prompt in prompts():
        table = PageTable(pool, pool.num_pages * pool.page_size)
        sequences.append(
            Sequence(prompt, table=table, sampler=sampler, limit=400, stop_ids=frozenset())
        )
        engine.add(sequences[-1])
    while min(len(s.emitted) for s in sequences) <= TOKENS:
        engine.step()
    return sequences


def state(runtime: Runtime, sequence: Sequence) -> list[bytes]:
    """Tokens, logprobs, and the KV of the positions before the last of the TOKENS."""
    count = sequence.prompt_len + TOKENS - 1
    parts = [bytes(str(sequence.emitted[:TOKENS] + sequence.output.logprobs[:TOKENS]), "ascii")]
    for at in range(0, count, runtime.page_size):
        used = min(runtime.page_size, count - at)
        for layer in range(runtime.config.num_layers):
            k, v = runtime.read_kv(layer, int(sequence.page_row[at // runtime.page_size]))
            parts += [k[:, :, :used].tobytes(), v[:, :used].tobytes()]
    return parts


def runtime_of(kind: str) -> Runtime:
    return build(kind, tiny("llama"), num_tokens=512, max_rows=48)


def coarser() -> Weights:
    """The target's matrices on a coarser grid: it agrees often, not always."""
    return make(CONFIGS["llama"], Kind(group_size=64))


def other_model(kind: str) -> Runtime:
    """A model of those."""
    return build(kind, coarser(), num_tokens=512)


@cache
def plain(kind: str, sampler: str) -> list[list[bytes]]:
    runtime = build(kind, tiny("llama"), threads=1, num_tokens=512, page_size=16)
    sequences = run(runtime, FixedPlan(None, 0), SAMPLERS[sampler])
    return [state(runtime, sequence) for sequence in sequences]
