"""From a loaded model to its planner: what `auto` may choose from, and what that costs here."""

from __future__ import annotations

from halfbyte.cascade.acceptance import Source
from halfbyte.cascade.arms import Arm, LearnedCost, LevelCost, LookupCost
from halfbyte.cascade.cascade import Cascade
from halfbyte.cascade.cost_cache import load_or_measure, table_path
from halfbyte.cascade.cost_probe import measure, pages_wanted
from halfbyte.cascade.costs import CostTable
from halfbyte.cascade.forecast import Forecaster
from halfbyte.cascade.ngram import NgramProposer
from halfbyte.cascade.planner import CostPlanner
from halfbyte.cascade.proposers import Proposers
from halfbyte.cascade.stages import Ngram
from halfbyte.config import Level
from halfbyte.engine.pages import PagePool
from halfbyte.importers.cache import cache_directory
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
# A match of at least so many tokens, and the alpha expected of it before anything was seen.
MATCHES = ((1, 0.4), (3, 0.6), (4, 0.7), (6, 0.8), (9, 0.85), (16, 0.9))


def draft_levels(runtime: Runtime, target: Level) -> list[Level]:
    """Levels of the same weights that may draft for `target`."""
    names = DRAFT_LEVELS.get((target.weight_bits, target.act_bits), ())
    return [level for level in map(Level.parse, names) if runtime.supports(level)]


def cost_table(
    runtime: Runtime, pool: PagePool, target: Level, *, measure_again: bool = False
) -> CostTable:
    """The table of a target and its drafts: from the cache, or measured now in free pages."""
    drafts = draft_levels(runtime, target)

    def measured() -> CostTable:
        count = min(pages_wanted(pool.page_size), pool.num_free)
        pages = [pool.take() for _ in range(count)]
        try:
            return measure(runtime, target, drafts, pages)
        finally:
            for page in reversed(pages):
                pool.give_back(page)

    path = table_path(cache_directory(), runtime, target, drafts)
    return load_or_measure(path, [target, *drafts], measured, again=measure_again)


def planner_for(
    runtime: Runtime, proposers: Proposers, target: Level, table: CostTable
) -> CostPlanner:
    """A planner over everything that may pay for `target`."""
    every = candidates(runtime, proposers, target, table)
    return CostPlanner(target, table, [arm for arm in every if could_pay(arm, target, table)])


def candidates(
    runtime: Runtime, proposers: Proposers, target: Level, table: CostTable
) -> list[Arm]:
    """`ngram`, each draft level, and `ngram` before the level that reads least."""
    lookup = proposers.of(Cascade((Ngram(), target)))
    assert isinstance(lookup, NgramProposer)

    evidence = lookup.match_lengths
    arms = [Arm("ngram", lookup, LookupCost(), _sources("ngram"), LOOKUP_LENGTH, 0, evidence)]
    levels = draft_levels(runtime, target)
    for level in levels:
        proposer = proposers.of(Cascade((level, target)))
        assert proposer is not None
        cost = LevelCost(table, str(level))
        arms.append(Arm(str(level), proposer, cost, (Source(str(level)),), DRAFT_LENGTH))
    for level in levels[:1]:
        stack = proposers.of(Cascade((Ngram(), level, target)))
        assert stack is not None
        # A first guess: a round is a forward of a few rows and brings two tokens.
        one_round = table.linear_seconds(str(level), 1 + INNER_LENGTH)
        learned = LearnedCost(one_round, one_round / 2)
        name = stack.stack
        sources = _sources(name)
        arms.append(Arm(name, stack, learned, sources, STACK_LENGTH, INNER_LENGTH, evidence))
    return arms


def could_pay(arm: Arm, target: Level, table: CostTable) -> bool:
    """Whether an arm beats plain decoding of one sequence when every proposal is right."""
    forecaster = Forecaster(str(target), table, [arm])
    contexts = [table.contexts[0]]
    plain = forecaster.plain(contexts)
    always = [[1.0] * arm.max_length]
    return forecaster.extended(plain, 0, [0], always, contexts, plain.rate).rate > plain.rate


def _sources(name: str) -> tuple[Source, ...]:
    return tuple(Source(name, least, prior) for least, prior in MATCHES)
