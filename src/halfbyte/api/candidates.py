"""From a loaded model to its planner: what `auto` may choose from, and what that costs here."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

from halfbyte.api.loading import LoadedModel
from halfbyte.cascade.cascade import Cascade
from halfbyte.cascade.stages import Eagle, Model, Ngram
from halfbyte.config import Level
from halfbyte.engine.pages import PagePool
from halfbyte.errors import SourceError
from halfbyte.importers.cache import cache_directory
from halfbyte.planner.acceptance import Source
from halfbyte.planner.candidates import Arm, LearnedCost, LevelCost, LookupCost, Unread
from halfbyte.planner.cost_cache import load_or_measure, table_path
from halfbyte.planner.cost_probe import measure, pages_wanted
from halfbyte.planner.cost_table import CostTable
from halfbyte.planner.forecast import Forecaster
from halfbyte.planner.head_probe import level_seconds
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
STACK_LENGTH, INNER_LENGTH = 10, 4
TREE_NODES, TREE_DEPTHS = 16, (2, 4, 6)
# A model agrees with the target more on one kind of text than on another, and is asked only for
# texts it has read: what counts is what the last few of them showed.
MODEL_FADE = 0.98
# A match of at least so many tokens, and the alpha expected of it before anything was seen.
MATCHES = ((1, 0.4), (3, 0.6), (4, 0.7), (6, 0.8), (9, 0.85), (16, 0.9))


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
            return measure(runtime, target, drafts, pages)

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
    """A draft head, and what it costs here."""

    stage: Eagle
    level_seconds: float  # of a tree


Offer = ModelOffer | HeadOffer


def offers_of(model: LoadedModel, cascade: Cascade) -> list[Offer]:
    """What an `auto` cascade offers, opened and measured (a model's table is cached)."""
    offers: list[Offer] = []
    for stage in cascade.offers:
        if isinstance(stage, Eagle):
            offers.append(HeadOffer(stage, level_seconds(model.open_head(stage))))
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
    every = candidates(runtime, proposers, target, table, offers)
    return CostPlanner(target, table, [arm for arm in every if could_pay(arm, target, table)])


def candidates(
    runtime: Runtime,
    proposers: Proposers,
    target: Level,
    table: CostTable,
    offers: Seq[Offer] = (),
) -> list[Arm]:
    """`ngram`, each draft level, `ngram` before the level that reads least; each model offered, and
    `ngram` before it; each head offered, at several depths of its trees."""
    lookup = proposers.of(Cascade((Ngram(), target)))
    assert isinstance(lookup, NgramProposer)

    evidence = lookup.match_lengths
    arms = [Arm("ngram", lookup, LookupCost(), _sources("ngram"), LOOKUP_LENGTH, evidence=evidence)]
    levels = draft_levels(runtime, target)
    for level in levels:
        proposer = proposers.of(Cascade((level, target)))
        assert proposer is not None
        cost = LevelCost(table, str(level))
        arms.append(Arm(str(level), proposer, cost, (Source(str(level)),), DRAFT_LENGTH))
    arms += [_after_lookup(proposers, level, target, table, lookup) for level in levels[:1]]
    for offer in offers:
        if isinstance(offer, ModelOffer):
            arms += _of_model(proposers, offer, target, lookup)
        else:
            arms += _of_head(proposers, offer, target)
    return arms


def _of_model(
    proposers: Proposers, offer: ModelOffer, target: Level, lookup: NgramProposer
) -> list[Arm]:
    """Another model alone, and after n-grams; its own table says what it costs."""
    stage, table = offer.stage, offer.table
    cost, name = LevelCost(table, str(stage.level)), str(stage)
    runner, drafter = proposers.runner(stage), proposers.of(Cascade((stage, target)))
    assert isinstance(runner, ModelRunner)
    assert drafter is not None
    unread = Unread(runner.unread, cost.reading_seconds)
    return [
        Arm(name, drafter, cost, (Source(name, fade=MODEL_FADE),), DRAFT_LENGTH, unread=unread),
        _after_lookup(proposers, stage, target, table, lookup, unread),
    ]


def _of_head(proposers: Proposers, offer: HeadOffer, target: Level) -> list[Arm]:
    """Trees of a head, at several depths; of how many nodes is the planner's choice."""
    stage, one_level = offer.stage, offer.level_seconds
    proposer = proposers.of(Cascade((stage, target)))
    assert isinstance(proposer, EagleProposer)
    arms = []
    for depth in TREE_DEPTHS:
        source = Source(f"{stage} depth {depth}", prior=0.6, is_tree=True)
        cost = LearnedCost(one_level, one_level)
        arms.append(
            Arm(str(stage), proposer.at_depth(depth), cost, (source,), TREE_NODES, depth=depth)
        )
    return arms


def _after_lookup(
    proposers: Proposers,
    stage: Level | Model,
    target: Level,
    table: CostTable,
    lookup: NgramProposer,
    unread: Unread | None = None,
) -> Arm:
    """`ngram` before a stage; `table` has the stage's level."""
    stack = proposers.of(Cascade((Ngram(), stage, target)))
    assert stack is not None
    # A first guess: a round is a forward of a few rows and brings two tokens.
    level = str(stage.level if isinstance(stage, Model) else stage)
    one_round = table.linear_seconds(level, 1 + INNER_LENGTH)
    return Arm(
        stack.stack,
        stack,
        LearnedCost(one_round, one_round / 2),
        _sources(stack.stack),
        STACK_LENGTH,
        INNER_LENGTH,
        unread=unread,
        evidence=lookup.match_lengths,
    )


def could_pay(arm: Arm, target: Level, table: CostTable) -> bool:
    """Whether an arm beats plain decoding of one sequence when every proposal is right."""
    forecaster = Forecaster(str(target), table, [arm])
    contexts = [table.contexts[0]]
    plain = forecaster.plain(contexts)
    always = [[1.0] * arm.max_length]
    return forecaster.extended(plain, 0, [0], always, contexts, plain.rate).rate > plain.rate


def _sources(name: str) -> tuple[Source, ...]:
    return tuple(Source(name, least, prior) for least, prior in MATCHES)
