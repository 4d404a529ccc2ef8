"""Engines over any runtime that do what an explicit cascade says."""

from __future__ import annotations

from collections.abc import Callable

from halfbyte.cascade.cascade import Cascade
from halfbyte.cascade.planning import Planner
from halfbyte.engine.engine import Engine
from halfbyte.engine.options import EngineOptions
from halfbyte.engine.pages import PagePool
from halfbyte.proposers.build import Proposers
from halfbyte.runtime.protocol import Runtime

DEFAULTS = EngineOptions()


def explicit(runtime: Runtime, options: EngineOptions = DEFAULTS) -> Callable[[Cascade], Planner]:
    """What an engine needs to follow cascades as they stand, with the options' lengths."""
    proposers = Proposers(runtime, options.min_confidence)
    return lambda c: proposers.fixed_plan(c, options.draft_length, options.inner_length)


def engine_of(
    runtime: Runtime, pool: PagePool, cascade: str, options: EngineOptions = DEFAULTS
) -> Engine:
    """An engine for a cascade without `auto`."""
    return Engine(runtime, pool, Cascade.parse(cascade), options, explicit(runtime, options))
