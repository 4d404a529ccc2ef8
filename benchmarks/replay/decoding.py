"""What decodes in a replay: plain decoding, fixed cascades and `auto` over recorded texts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from benchmarks.measure.loop import measure, queue_length
from benchmarks.measure.variants import AUTO, Variant
from benchmarks.planner.auto import FIXED
from benchmarks.replay.host import Hosted
from benchmarks.replay.recorded import Recording
from benchmarks.replay.recorded_runtime import Clock, RecordedRuntime
from halfbyte.api.candidates import ModelOffer, planner_for
from halfbyte.cascade.cascade import Cascade
from halfbyte.cascade.planning import Planner
from halfbyte.cascade.stages import Model, parse_stage
from halfbyte.config import Level
from halfbyte.engine.engine import Engine
from halfbyte.engine.options import EngineOptions
from halfbyte.engine.pages import PagePool, PageTable
from halfbyte.engine.prefix import DraftTable
from halfbyte.engine.sequence import Sequence
from halfbyte.errors import ArgumentError, SourceError
from halfbyte.planner.cost_table import CostTable
from halfbyte.proposers.build import Proposers
from halfbyte.proposers.model_runner import ModelRunner
from halfbyte.runtime.protocol import Runtime
from halfbyte.sampling.sampler import GREEDY

PAGES = 4096
OFFERED = "{} > {{}} @4", "{} > {{}} @8", "ngram > {} > {{}} @8/4"  # fixed cascades of an offer


@dataclass(frozen=True, slots=True)
class Setting:
    """What a replay is of, beside its texts."""

    target: Level
    table: CostTable  # what `auto` goes by
    clock_table: CostTable  # what calls take: the same, unless the machine is to be unlike it
    tokens: int  # of an answer
    is_closed: bool = False  # a batch that no other request joins
    offers: Mapping[str, CostTable] = field(default_factory=dict)  # `model:…` -> its own forwards

    @property
    def fixed(self) -> list[str]:
        """Plain decoding, and the fixed cascades."""
        offered = [text.format(offer) for offer in self.offers for text in OFFERED]
        return [str(self.target), *(text.format(self.target) for text in (*FIXED, *offered))]


def replay(
    recordings: Seq[Recording], batch: int, setting: Setting, variants: Seq[str] = ()
) -> dict[str, list[float]]:
    """Tokens per second of each queue, of each variant; without `variants` plain decoding, `auto`
    and the fixed cascades."""
    length = batch if setting.is_closed else queue_length(batch)
    if len(recordings) < length:
        raise ArgumentError(
            "recordings",
            got=f"{len(recordings)}",
            expected=f"{length} for a batch of {batch}",
            fix="record more with --prompts, or leave the batch out of --batches",
        )
    found = {}
    plain, *others = setting.fixed
    for name in variants or (plain, AUTO, *others):
        clock = Clock()
        with clock.everywhere():
            runs = measure(
                {name: _Replay(name, recordings, setting, clock, batch)},
                recordings,
                batch,
                tokens=setting.tokens,
                rounds=1,
                warming=[name],  # `auto` learns, and prompts are in the prefix cache from then on
                is_closed=setting.is_closed,
            )
            found[name] = runs[name].queues
    return found


class _Replay:
    """Implements `loop.Subject`: one variant, with all that it keeps from queue to queue."""

    def __init__(
        self, name: str, recordings: Seq[Recording], setting: Setting, clock: Clock, batch: int
    ) -> None:
        target = setting.target
        self._clock, self._recordings, self._setting = clock, recordings, setting
        recorded = RecordedRuntime(
            recordings, str(target), setting.clock_table, clock, num_pages=PAGES
        )
        self._runtime = cast(Runtime, recorded)
        self._pool = PagePool(PAGES, self._runtime.page_size)
        self._cascade, self._options = Cascade((target,)), EngineOptions(max_batch=batch)
        proposers = Proposers(self._runtime, open_model=self._open)
        if name == AUTO:
            offers = [
                ModelOffer(cast(Model, parse_stage(stage)), table)
                for stage, table in setting.offers.items()
            ]
            planner: Planner = planner_for(self._runtime, proposers, target, setting.table, offers)
        else:
            variant = Variant.parse(name)
            lengths = variant.draft_length, variant.inner_length or EngineOptions.inner_length
            planner = proposers.fixed_plan(variant.cascade, *lengths)
        self._planner = Hosted(planner, clock, chooses=name == AUTO)

    def engine(self) -> Engine:
        """See `loop.Subject`."""
        planner = cast(Planner, self._planner)
        return Engine(self._runtime, self._pool, self._cascade, self._options, lambda _: planner)

    def sequence(self, prompt: Recording, limit: int) -> Sequence:
        """The beginning of what was recorded."""
        table = PageTable(self._pool, self._runtime.config.max_context)
        limit = min(limit, len(prompt.answer))
        stops = frozenset[int]()
        return Sequence(prompt.prompt, table=table, sampler=GREEDY, limit=limit, stop_ids=stops)

    def _open(self, stage: Model) -> ModelRunner:
        """An offered model. It reads every prompt anew, as that of a request not seen before."""
        recorded = RecordedRuntime(
            self._recordings,
            str(stage),
            self._setting.offers[str(stage)],
            self._clock,
            num_pages=PAGES,
            is_draft=True,
        )
        runtime, level = cast(Runtime, recorded), stage.level
        pool, context = PagePool(PAGES, runtime.page_size), runtime.config.max_context
        return ModelRunner(
            str(stage),
            runtime,
            level,
            new_pages=lambda: DraftTable(pool, context, level, reuse=False),
            vocab_size=runtime.config.vocab_size,
        )


def read_table(path: Path) -> CostTable:
    """A cost table that `--record` wrote."""
    try:
        return CostTable.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise SourceError(
            str(path),
            got=f"{type(error).__name__}: {error}",
            expected="the cost table of a recording",
            fix="make it with python -m benchmarks.replay --record",
        ) from error


def read_offers(directory: Path) -> dict[str, CostTable]:
    """Models whose drafts are in the recordings of a directory, and their tables."""
    found = {}
    for path in sorted(directory.glob("offer-*.json")):
        stage = json.loads(path.read_text(encoding="utf-8"))["stage"]
        found[stage] = read_table(path)
    return found
