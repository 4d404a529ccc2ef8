"""SpecMQuant's equation 1: what a cascade should gain, from forwards timed apart from it.

    speed-up = tokens per cycle · T(1) / (drafting + stages between + T(1 + draft length))

T is a staircase, so the cost of a mean cycle is not the mean cost: every cycle counts with its own
rows. What a run and plain decoding spent outside the runtime belongs to both sides.
"""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.measure.loop import Runs
from halfbyte import LLM
from halfbyte.api.candidates import cost_table
from halfbyte.cascade.cascade import Cascade
from halfbyte.cascade.stages import Model, Ngram, Stage
from halfbyte.cascade.statistics import LinkStatistics, Statistics
from halfbyte.config import Level
from halfbyte.planner.cost_table import CostTable

Costs = Mapping[Stage, CostTable | None]  # None: a stage without a table, such as a draft head


def stage_costs(llm: LLM, cascade: Cascade) -> dict[Stage, CostTable | None]:
    """T(level, M, context) of every stage, measured or from the cache."""
    return {stage: _costs(llm, stage) for stage in cascade.stages}


def predicted_speedup(
    cascade: Cascade, costs: Costs, runs: Runs, plain: Runs, batch: int = 1
) -> float | None:
    """From the tables and the run's own tokens, drafts and rows of each cycle.

    Reading the prompt in a draft model is not in it. None: nothing was decoded, or a stage has no
    table.
    """
    *before, target = cascade.stages
    table, total, context = costs[target], runs.total, runs.context if runs.contexts else 0.0
    plain_total = plain.total
    if table is None or not total.target_forwards or not plain_total.target_forwards:
        return None
    one = table.attention_seconds(1, context)
    step = table.linear_seconds(str(target), batch) + batch * one
    step += plain_total.host_seconds / plain_total.target_forwards
    seconds = total.host_seconds
    for (size, proposed), count in runs.cycles.items():
        verify = table.linear_seconds(str(target), size + proposed)
        verify += size * table.attention_seconds(1 + proposed / size, context)
        seconds += count * verify
    together = total.cycles / total.target_forwards  # sequences of a mean cycle
    for i, stage in enumerate(before):
        if isinstance(stage, Ngram):
            continue
        own = costs[stage]
        if own is None:
            return None
        link = total.links.get(f"{stage} > {cascade.stages[i + 1]}", LinkStatistics())
        level = str(stage.level) if isinstance(stage, Model) else str(stage)
        if i == 0:
            seconds += _drafting(own, level, link.forwards, total, together, context)
        else:
            inner = total.links[f"{before[i - 1]} > {stage}"]
            rows = 1 + inner.draft_tokens / max(1, inner.cycles)  # of a look at proposals
            look = own.linear_seconds(level, together * rows)
            seconds += link.forwards * (look + together * own.attention_seconds(rows, context))
    return (total.cycles + total.accepted_tokens) / batch * step / seconds


def _drafting(
    table: CostTable, level: str, forwards: int, total: Statistics, together: float, context: float
) -> float:
    """The first stage: one call per cycle that drafts, a forward per token of it."""
    attention = together * table.attention_seconds(1, context)
    growth = table.linear_seconds(level, together) - table.linear_seconds(level, 1)
    first, further = (seconds + growth + attention for seconds in table.drafts[level])
    calls = min(forwards, total.target_forwards)
    return calls * first + (forwards - calls) * further


def _costs(llm: LLM, stage: Stage) -> CostTable | None:
    if isinstance(stage, Level):
        return cost_table(llm.model.runtime, llm.model.pool, llm.cascade.target)
    if isinstance(stage, Model):
        model, _ = llm.model.opened(stage)
        return cost_table(model.runtime, model.pool, Level.parse("w8a16"))
    return None
