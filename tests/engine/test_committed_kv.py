"""After speculation the committed KV is that of plain decoding, byte for byte."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from halfbyte.engine.options import EngineOptions
from halfbyte.engine.pages import PagePool, PageTable
from halfbyte.engine.sequence import Sequence
from halfbyte.runtime.protocol import Runtime, SamplingRow
from halfbyte.sampling.sampler import GREEDY, Sampler
from tests.support.engines import engine_of
from tests.support.runtimes import NATIVE_KINDS, build, random_tokens
from tests.support.tiny_models import tiny

COMMITTED = 90


def _run(cascade: str, options: EngineOptions, sampler: Sampler) -> tuple[Runtime, list[Sequence]]:
    """Two sequences, stopped while running, with at least COMMITTED committed positions each."""
    runtime = build(NATIVE_KINDS[0], tiny("llama"), num_tokens=1024, max_rows=13)
    pool = PagePool(runtime.num_pages, runtime.page_size)
    engine = engine_of(runtime, pool, cascade, options)
    sequences = []
    for seed in (1, 2):
        table = PageTable(pool, pool.num_pages * pool.page_size)
        prompt = random_tokens(20 + 7 * seed, seed=seed).tolist()
        sequence = Sequence(prompt, table=table, sampler=sampler, limit=400, stop_ids=frozenset())
        sequences.append(sequence)
        engine.add(sequence)
    while min(s.committed_len for s in sequences) < COMMITTED:
        engine.step()
    return runtime, sequences


def _committed(runtime: Runtime, sequence: Sequence) -> list[NDArray[np.generic]]:
    """K [Hkv, D, COMMITTED] and V [Hkv, COMMITTED, D] of every layer, in order of position."""
    pages = [int(p) for p in sequence.page_row if p >= 0]
    result: list[NDArray[np.generic]] = []
    for layer in range(runtime.config.num_layers):
        keys, values = zip(*(runtime.read_kv(layer, page) for page in pages), strict=True)
        result.append(np.concatenate(keys, axis=2)[:, :, :COMMITTED])
        result.append(np.concatenate(values, axis=1)[:, :COMMITTED])
    return result


@pytest.mark.parametrize("sampler", [GREEDY, Sampler(SamplingRow(11, 0.8, 40, 0.95))])
@pytest.mark.parametrize("draft", ["w4a4", "w4a8"])
def test_committed_kv_equals_that_of_plain_decoding(draft: str, sampler: Sampler) -> None:
    speculated = _run(f"{draft} > w8a16", EngineOptions(draft_length=3), sampler)
    reference = _run("w8a16", EngineOptions(draft_length=0), sampler)
    for ours, theirs in zip(speculated[1], reference[1], strict=True):
        assert ours.tokens[:COMMITTED] == theirs.tokens[:COMMITTED]
        for a, b in zip(
            _committed(speculated[0], ours), _committed(reference[0], theirs), strict=True
        ):
            np.testing.assert_array_equal(a, b)
    assert any(s.statistics.accepted_tokens for s in speculated[1])
