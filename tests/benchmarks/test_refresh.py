from __future__ import annotations

import pytest
from benchmarks.decoding.refresh import Guessing

from halfbyte.cascade.cascade import Cascade
from halfbyte.cascade.planning import FixedPlan
from halfbyte.engine.engine import Engine
from halfbyte.engine.options import EngineOptions
from halfbyte.engine.pages import PagePool, PageTable
from halfbyte.engine.sequence import Sequence
from halfbyte.proposers.eagle import EagleProposer
from halfbyte.sampling.choice import Choice
from tests.exactness.test_eagle import Oracle
from tests.support.runtimes import build
from tests.support.tiny_models import tiny

GREEDY = Choice(0.0, 0, 1.0, 0.0, 0)


@pytest.mark.parametrize("kind", ["scalar", "reference"])
def test_guessed_features_change_what_a_head_reads_and_never_the_output(kind: str) -> None:
    outputs, read = [], []
    for proposing in (EagleProposer, Guessing):
        runtime = build(kind, tiny("llama"), num_tokens=512)
        head = Oracle(kind, runtime)
        rows: list[int] = []
        forward = head.forward

        def counted(batch, level, features, asked, k, forward=forward, rows=rows):  # type: ignore[no-untyped-def]
            rows.append(len(batch.tokens))
            return forward(batch, level, features, asked, k)

        head.forward = counted  # type: ignore[method-assign]
        pool = PagePool(runtime.num_pages, runtime.page_size)
        plan = FixedPlan(proposing("eagle:h", head, runtime), 4)
        engine = Engine(
            runtime, pool, Cascade.parse("w8a16"), EngineOptions(), lambda _, plan=plan: plan
        )
        table = PageTable(pool, pool.num_pages * pool.page_size)
        sequence = Sequence(
            [5, 1, 2, 5, 1], table=table, choice=GREEDY, limit=40, stop_ids=frozenset()
        )
        engine.add(sequence)
        while engine.has_work:
            engine.step()
        outputs.append(list(sequence.emitted))
        read.append(rows)
        assert engine.statistics.accepted_tokens > 0
    assert outputs[0] == outputs[1]
    # Accepted rows run one by one, each on the guess of the one before.
    assert len(read[1]) > len(read[0])
