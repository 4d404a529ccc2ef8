"""From a loaded model to its planner: what `auto` may choose from, and what that costs here."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

from halfbyte.api.loading import LoadedModel
from halfbyte.cascade.cascade import Cascade
from halfbyte.cascade.decoding import Decoding
from halfbyte.cascade.stages import Eagle, Model, Ngram
from halfbyte.config import Level
from halfbyte.engine.pages import PagePool
from halfbyte.errors import SourceError
from halfbyte.importers.cache import cache_directory
from halfbyte.planner.acceptance import Source
from halfbyte.planner.candidates import Candidate, Cost, level_cost
from halfbyte.planner.cost_cache import load_or_measure, table_path
from halfbyte.planner.cost_probe import CostProbe, pages_wanted
from halfbyte.planner.cost_table import CostTable
from halfbyte.planner.planner import CostPlanner
from halfbyte.proposers.build import Proposers
from halfbyte.proposers.eagle import EagleProposer
from halfbyte.proposers.model_runner import ModelRunner
from halfbyte.proposers.ngram import NgramProposer
from halfbyte.runtime.protocol import Runtime

# Target weight and activation bits -> levels that may draft for it: fewer bytes first.
DRAFT_LEVELS = {
    (8, 16): ("w4a8", "w4a16"),
    (8, 8): ("w4a8",),
    (4, 16): ("w4a8", "w4a4"),
    (4, 8): ("w4a4",),
}
DRAFT_LENGTH = 8
LOOKUP_LENGTH = 12
TREE_NODES, TREE_DEPTHS = 16, (2, 4, 6)
# A match of at least so many tokens, and the alpha expected of it before anything was seen.
FEW_UNREAD = 16
LOOKUP_SECONDS = 1e-5
GROWTH = 0.1
MATCHES = ((1, 0.4), (4, 0.7), (9, 0.85))


def draft_levels(runtime: Runtime, target: Level) -> list[Level]:
    """Levels of the same weights that may draft for `target`."""
    names = DRAFT_LEVELS.get((target.weight_bits, target.act_bits), ())
    return [level for level in map(Level.parse, names) if runtime.supports(level)]


def cost_table(
    runtime: Runtime,
    pool: PagePool,
    target: Level,
    *,
    drafts: Seq[Level] | None = None,
    measure_again: bool = False,
) -> CostTable:
    """The table of a target and its drafts (None: the levels that may draft for it): from the
    cache, or measured now in free pages."""
    drafts = draft_levels(runtime, target) if drafts is None else drafts

    def measured() -> CostTable:
        with pool.lent(pages_wanted(pool.page_size)) as pages:
            return CostProbe(runtime, target, drafts, pages).run()

    try:
        path = table_path(cache_directory(), runtime, target, drafts)
    except SourceError:  # no home to keep it in
        return measured()
    return load_or_measure(path, [target, *drafts], measured, again=measure_again)


@dataclass(frozen=True, slots=True)
class ModelOffer:
    """A model beside the weights themselves, and what it costs here."""

    stage: Model
    table: CostTable  # of its own forwards


@dataclass(frozen=True, slots=True)
class HeadOffer:
    """A draft head, and what a level of its trees reads."""

    stage: Eagle
    weight_bytes: int


Offer = ModelOffer | HeadOffer


def offers_of(model: LoadedModel, cascade: Cascade) -> list[Offer]:
    """What an `auto` cascade offers, opened, a model also measured (its table is cached)."""
    offers: list[Offer] = []
    for stage in cascade.offers:
        if isinstance(stage, Eagle):
            head = model.open_head(stage)
            offers.append(HeadOffer(stage, head.weight_bytes(head.level)))
            continue
        opened, _ = model.opened(stage)
        Cascade((stage.level,)).require(opened.runtime)
        table = cost_table(opened.runtime, opened.pool, stage.level, drafts=[stage.level])
        offers.append(ModelOffer(stage, table))
    return offers


def planner_of(model: LoadedModel, proposers: Proposers, cascade: Cascade) -> CostPlanner:
    """What decides for an `auto` cascade of a model; what it may choose from is measured now."""
    table = cost_table(model.runtime, model.pool, cascade.target)
    offers = offers_of(model, cascade)
    return planner_for(model.runtime, proposers, cascade.target, table, offers)


def planner_for(
    runtime: Runtime,
    proposers: Proposers,
    target: Level,
    table: CostTable,
    offers: Seq[Offer] = (),
) -> CostPlanner:
    """A planner over everything that may pay for `target`."""
    return CostPlanner(target, table, candidates(runtime, proposers, target, table, offers))


def candidates(
    runtime: Runtime,
    proposers: Proposers,
    target: Level,
    table: CostTable,
    offers: Seq[Offer] = (),
) -> list[Candidate]:
    """`ngram`, each draft level, each model offered, each head offered at several depths of its
    trees."""
    lookup = proposers.of(Cascade((Ngram(), target)))
    assert isinstance(lookup, NgramProposer)
    found = [
        Candidate(
            "ngram",
            lookup,
            Cost(LOOKUP_SECONDS, 0.0, lambda _: 0.0),
            tuple(Source("ngram", least, prior) for least, prior in MATCHES),
            LOOKUP_LENGTH,
            evidence=lookup.match_lengths,
        )
    ]
    for level in draft_levels(runtime, target):
        proposer = proposers.of(Cascade((level, target)))
        assert proposer is not None
        cost = level_cost(table, str(level))
        found.append(Candidate(str(level), proposer, cost, (Source(str(level)),), DRAFT_LENGTH))
    for offer in offers:
        if isinstance(offer, ModelOffer):
            found.append(_of_model(proposers, offer, target))
        else:
            share = offer.weight_bytes / max(1, runtime.weight_bytes(target))
            level_seconds = share * table.linear_seconds(str(target), 1)
            found += _of_head(proposers, offer, target, level_seconds)
    return found


def _of_model(proposers: Proposers, offer: ModelOffer, target: Level) -> Candidate:
    """Another model; its own table says what it costs."""
    stage, name = offer.stage, str(offer.stage)
    cost = level_cost(offer.table, str(stage.level))
    runner, drafter = proposers.runner(stage), proposers.of(Cascade((stage, target)))
    assert isinstance(runner, ModelRunner)
    assert drafter is not None

    def unread(sequence: Decoding) -> float:
        tokens = runner.unread(sequence)  # a few are run together with the draft's first
        reading = tokens > FEW_UNREAD
        return offer.table.linear_seconds(str(stage.level), tokens) if reading else 0.0

    return Candidate(name, drafter, cost, (Source(name),), DRAFT_LENGTH, unread=unread)


def _of_head(
    proposers: Proposers, offer: HeadOffer, target: Level, one_level: float
) -> list[Candidate]:
    """Trees of a head, at several depths; of how many nodes is the planner's choice. `one_level`:
    seconds of a level of a tree."""
    stage = offer.stage
    proposer = proposers.of(Cascade((stage, target)))
    assert isinstance(proposer, EagleProposer)
    found = []
    for depth in TREE_DEPTHS:
        source = Source(f"{stage} depth {depth}", prior=0.6, is_tree=True)
        cost = Cost(one_level, one_level, lambda _: GROWTH * one_level)
        found.append(
            Candidate(
                str(stage), proposer.at_depth(depth), cost, (source,), TREE_NODES, depth=depth
            )
        )
    return found
