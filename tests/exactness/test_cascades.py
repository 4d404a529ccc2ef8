"""Every cascade gives the plain tokens, logprobs and committed KV, over real kernels."""

from __future__ import annotations

from functools import cache

import pytest

from halfbyte.cascade.cascade import Cascade
from halfbyte.cascade.planning import FixedPlan, Planner
from halfbyte.cascade.statistics import Statistics
from halfbyte.engine.engine import Engine, EngineOptions
from halfbyte.engine.pages import PagePool, PageTable
from halfbyte.engine.sequence import Sequence
from halfbyte.runtime.protocol import Runtime
from halfbyte.sampling.choice import Choice
from tests.support.proposers import RandomPlanner, noise, proposers
from tests.support.runtimes import build, every_runtime, random_tokens
from tests.support.tiny_models import CONFIGS, Kind, make, tiny

TOKENS = 40
CHOICES = {
    "greedy": Choice(0.0, 0, 1.0, 0.0, 0),
    "seeded": Choice(0.8, 40, 0.95, 0.02, 2**63 + 11),
}
CASCADES = [
    "w4a4 > w8a16",
    "ngram > w8a16",
    "ngram > w4a8 > w8a16",
    "w4a4 > w4a8 > w8a16",
    "model:m@w4a8 > w8a16",
    "ngram > model:m@w4a8 > w8a16",
    "w4a8 > model:m@w8a16 > w8a16",
    "model:m@w4a4 > w4a8 > w8a16",
]


def _prompts() -> list[list[int]]:
    """One that repeats itself, so that `ngram` has something to find, and one that does not."""
    phrase = random_tokens(9, seed=5).tolist()
    return [phrase * 4, random_tokens(37, seed=6).tolist()]


def _run(kind: str, runtime: Runtime, planner: Planner, choice: Choice) -> list[Sequence]:
    """Both prompts together, stopped with TOKENS tokens each and their pages still held."""
    pool = PagePool(runtime.num_pages, runtime.page_size)
    engine = Engine(runtime, pool, Cascade.parse("w8a16"), EngineOptions(), lambda _: planner)
    sequences = []
    for prompt in _prompts():
        table = PageTable(pool, pool.num_pages * pool.page_size)
        sequences.append(
            Sequence(prompt, table=table, choice=choice, limit=400, stop_ids=frozenset())
        )
        engine.add(sequences[-1])
    while min(len(s.emitted) for s in sequences) <= TOKENS:
        engine.step()
    return sequences


def _state(runtime: Runtime, sequence: Sequence) -> list[bytes]:
    """Tokens, logprobs, and the KV of the positions before the last of the TOKENS."""
    count = sequence.prompt_len + TOKENS - 1
    parts = [bytes(str(sequence.emitted[:TOKENS] + sequence.logprobs[:TOKENS]), "ascii")]
    for at in range(0, count, runtime.page_size):
        used = min(runtime.page_size, count - at)
        for layer in range(runtime.config.num_layers):
            k, v = runtime.read_kv(layer, int(sequence.page_row[at // runtime.page_size]))
            parts += [k[:, :, :used].tobytes(), v[:, :used].tobytes()]
    return parts


def _runtime(kind: str) -> Runtime:
    return build(kind, tiny("llama"), num_tokens=512, max_rows=48)


def _other_model(kind: str) -> Runtime:
    """The target's matrices on a coarser grid: it agrees often, not always."""
    return build(kind, make(CONFIGS["llama"], Kind(group_size=64)), num_tokens=512)


@cache
def _plain(kind: str, choice: str) -> list[list[bytes]]:
    runtime = build(kind, tiny("llama"), threads=1, num_tokens=512, page_size=16)
    sequences = _run(kind, runtime, FixedPlan(None, 0), CHOICES[choice])
    return [_state(runtime, sequence) for sequence in sequences]


@every_runtime
@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("cascade", CASCADES)
def test_every_cascade_decodes_as_plain_to_the_last_bit(
    kind: str, cascade: str, choice: str
) -> None:
    runtime = _runtime(kind)
    built = proposers(runtime, _other_model(kind) if "model:" in cascade else None)
    proposer = built.of(Cascade.parse(cascade))
    assert proposer is not None
    sequences = _run(kind, runtime, FixedPlan(proposer, 7, 3), CHOICES[choice])
    assert [_state(runtime, s) for s in sequences] == _plain(kind, choice)
    total = Statistics()
    for sequence in sequences:
        total.add(sequence.statistics)
    for name, link in total.links.items():
        # Text drawn at random does not repeat itself: there n-grams propose and are refused.
        least = 0 if name.startswith("ngram") and choice == "seeded" else 1
        assert least <= link.accepted_tokens <= link.draft_tokens > 0, name


@every_runtime
@pytest.mark.parametrize("choice", CHOICES)
def test_a_planner_that_chooses_at_random_decodes_as_plain(kind: str, choice: str) -> None:
    runtime = _runtime(kind)
    built = proposers(runtime, _other_model(kind))
    mixed = [built.of(Cascade.parse(cascade)) for cascade in CASCADES]
    planner = RandomPlanner([*mixed, noise(runtime.config.vocab_size), None], seed=3, most=7)
    sequences = _run(kind, runtime, planner, CHOICES[choice])
    assert [_state(runtime, s) for s in sequences] == _plain(kind, choice)
    assert len({turn.cascade(Cascade.parse("w8a16").target) for turn in planner.turns}) > 5
