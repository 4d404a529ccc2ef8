"""A head over part of the vocabulary: the same scores, the same noise, fewer tokens."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from halfbyte.config import Level
from halfbyte.errors import ArgumentError
from halfbyte.runtime.protocol import Adjustments, Batch, DraftRun, Runtime, Sampling
from halfbyte.runtime.reference_sampling import sample_rows
from tests.support.runtimes import build, every_runtime, prefix_batch, random_tokens
from tests.support.sampling import sampling
from tests.support.tiny_models import DENSE_MODELS, MODELS, tiny

PROMPTS = [19, 33]
STEPS = 6


def _sampling(
    temperature: float, positions: list[int], adjustments: Adjustments | None = None
) -> Sampling:
    rows = len(positions)
    seeds = np.arange(rows, dtype=np.uint64) + np.uint64(7)
    ways = {"temperature": temperature, "top_k": 30, "top_p": 0.95, "min_p": 0.01}
    return sampling(rows, adjustments, seed=seeds, position=positions, **ways)


def _ids(vocab: int, share: float, seed: int = 0) -> NDArray[np.int32]:
    """A share of the vocabulary that is no whole number of panels."""
    rng = np.random.default_rng(seed)
    count = min(vocab, int(vocab * share) | 1)
    return np.sort(rng.choice(vocab, count, replace=False)).astype(np.int32)


def _tables(runtime: Runtime) -> NDArray[np.int32]:
    return np.arange(2 * 4, dtype=np.int32).reshape(2, 4)  # pages of 16


def _prefilled(kind: str, model: str) -> tuple[Runtime, NDArray[np.int32], Level]:
    """Two prompts in the KV of a runtime, but for their last tokens, which are returned."""
    weights = tiny(model)
    runtime = build(kind, weights, num_tokens=512, page_size=16)
    level = next(lv for lv in map(Level.parse, ("w4a8", "f32")) if runtime.supports(lv))
    tables = _tables(runtime)
    last = []
    for b, length in enumerate(PROMPTS):
        tokens = random_tokens(length, runtime.config.vocab_size, seed=b)
        batch = prefix_batch(tokens[:-1], 16)
        used = tables[b : b + 1, : batch.page_tables.shape[1]]
        batch = Batch(batch.tokens, batch.row_starts, batch.first_positions, used)
        runtime.forward(batch, level, np.empty(0, np.int32))
        last.append(int(tokens[-1]))
    return runtime, np.array(last, np.int32), level


def _by_definition(
    runtime: Runtime,
    level: Level,
    tokens: NDArray[np.int32],
    how: Sampling,
    ids: NDArray[np.int32],
) -> list[list[int]]:
    """Step by step: all logits, and the slow twin's sampling over those of `ids`."""
    drafted: list[list[int]] = [[] for _ in PROMPTS]
    first = np.array(PROMPTS, np.int32) - 1
    for step in range(STEPS):
        batch = Batch(tokens, np.arange(3, dtype=np.int32), first + step, _tables(runtime))
        logits = runtime.forward(batch, level, np.arange(2, dtype=np.int32))
        tokens = sample_rows(logits, how.shifted(step), ids).tokens
        for out, token in zip(drafted, tokens.tolist(), strict=True):
            out.append(token)
    return drafted


@every_runtime
@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("model", [*MODELS, *DENSE_MODELS])
def test_a_draft_over_a_reduced_head_draws_from_its_tokens_as_the_whole_would(
    kind: str, model: str, temperature: float
) -> None:
    runtime, last, level = _prefilled(kind, model)
    positions = list(PROMPTS)
    for share in (0.02, 0.4, 1.0):
        ids = _ids(runtime.config.vocab_size, share)
        head = runtime.reduce_head(ids)
        how = _sampling(temperature, positions)
        batch = Batch(
            last,
            np.arange(3, dtype=np.int32),
            np.array(PROMPTS, np.int32) - 1,
            _tables(runtime),
        )
        lengths = np.full(2, STEPS, np.int32)
        drafted = runtime.draft(batch, DraftRun(level, lengths, head=head), how)
        expected = _by_definition(runtime, level, last, how, ids)
        assert drafted.counts.tolist() == [STEPS, STEPS]
        assert drafted.tokens.tolist() == expected
        if share == 1.0 and len(ids) == runtime.config.vocab_size:
            whole = runtime.draft(batch, DraftRun(level, lengths), how)
            assert drafted.tokens.tolist() == whole.tokens.tolist()


@every_runtime
def test_adjustments_and_masks_name_tokens_of_the_whole_vocabulary(kind: str) -> None:
    runtime, last, level = _prefilled(kind, "llama")
    vocab = runtime.config.vocab_size
    ids = _ids(vocab, 0.3)
    head = runtime.reduce_head(ids)
    batch = Batch(
        last, np.arange(3, dtype=np.int32), np.array(PROMPTS, np.int32) - 1, _tables(runtime)
    )
    one = np.ones(2, np.int32)
    outside = next(t for t in range(vocab) if t not in ids)

    def drawn(bonus: list[int], masks: NDArray[np.uint32], mask_rows: list[int]) -> list[list[int]]:
        adjustments = Adjustments(
            starts=np.array([0, 1, 2], np.int32),
            ids=np.array(bonus, np.int32),
            adds=np.full(2, 1e4, np.float32),
            factors=np.ones(2, np.float32),
            subtracts=np.zeros(2, np.float32),
            mask_rows=np.array(mask_rows, np.int32),
            masks=masks,
        )
        how = _sampling(0.0, list(PROMPTS), adjustments=adjustments)
        result = runtime.draft(batch, DraftRun(level, one, head=head), how)
        return [r[:n] for r, n in zip(result.tokens.tolist(), result.counts, strict=True)]

    words = (vocab + 31) // 32
    none = np.zeros((0, words), np.uint32)
    plain = runtime.draft(batch, DraftRun(level, one, head=head), _sampling(0.0, list(PROMPTS)))
    got = drawn([int(ids[3]), outside], none, [-1, -1])
    assert got == [[int(ids[3])], plain.tokens[1].tolist()]
    # A mask that leaves one token of the head, and one that leaves only a token outside it.
    masks = np.zeros((2, words), np.uint32)
    for row, token in enumerate((int(ids[-1]), outside)):
        masks[row, token // 32] = np.uint32(1) << np.uint32(token % 32)
    assert drawn([int(ids[0]), int(ids[0])], masks, [0, 1]) == [[int(ids[-1])], []]


@every_runtime
def test_a_reduced_head_reads_less_and_its_memory_is_counted_once(kind: str) -> None:
    runtime = build(kind, tiny("llama-2500-words"))
    level = Level.parse("w4a8")
    memory = runtime.memory_bytes()
    ids = np.arange(0, 1000, dtype=np.int32)
    head = runtime.reduce_head(ids)
    grown = runtime.memory_bytes()
    assert runtime.reduce_head(ids.copy()) == head
    assert runtime.memory_bytes() == grown
    assert grown > memory or kind == "reference"  # the twin looks at part of what it scored
    saved = runtime.weight_bytes(level) - runtime.weight_bytes(level, head)
    hidden = runtime.config.hidden_size
    assert saved >= 1400 * hidden // 2


@every_runtime
@pytest.mark.parametrize("ids", [[], [3, 3], [5, 4], [-1, 2], [0, 1 << 20]])
def test_ids_that_make_no_head_are_refused(kind: str, ids: list[int]) -> None:
    with pytest.raises(ArgumentError, match="reduced head"):
        build(kind, tiny("llama")).reduce_head(np.array(ids, np.int32))
