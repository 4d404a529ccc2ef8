"""What each mechanism and constant of the planner brings: it switched off, or another value.

    python -m benchmarks.replay.ablation RECORDINGS --name smollm2-135m [--busy TABLE]

Replays `auto` (`decoding.py`) as it is and with one thing changed, on several machines: as the cost
table says, with the table of a busy machine (or one of a quiet machine on a busy clock), in batches
that no request joins, on a machine five times as fast, and on one where memory is the limit. A row
is one change on one machine and batch: its speeds over those of the planner as it is, one value per
kind of work. Nothing in a replay is chance, yet a planner that is told something else takes another
path: changes that mean nothing move a value by up to 0.5%.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from benchmarks.measure.arguments import names, positive
from benchmarks.measure.occasion import Occasion, Subject
from benchmarks.measure.rows import RESULTS, Row, keep, layout
from benchmarks.measure.variants import AUTO
from benchmarks.measure.workloads import KINDS
from benchmarks.planner.auto import counts
from benchmarks.replay.decoding import Setting, read_table, replay
from benchmarks.replay.recorded import Recording, read
from halfbyte.api import candidates
from halfbyte.config import Level
from halfbyte.planner import acceptance, drift, exploration, optimiser, planner, remaining_length
from halfbyte.planner.cost_table import CostTable

Patch = tuple[Any, str, Any]  # of what, which attribute, its value meanwhile
FASTER = 5.0
MIXED = "mixed"  # all kinds in turn


def _without(name: str) -> Patch:
    """Candidates but that one."""
    made = candidates.candidates

    def others(*arguments: Any) -> list[Any]:
        return [each for each in made(*arguments) if each.name != name]

    return candidates, "candidates", others


_factor = drift.Drift.factor
MECHANISMS: Final[Mapping[str, Sequence[Patch]]] = {
    "n-grams": [_without("ngram")],
    "`w4a8`": [_without("w4a8")],
    "`w4a16`": [_without("w4a16")],
    "acceptance by length of match": [(candidates, "MATCHES", ((1, 0.6),))],
    "tokens left to matches": [(planner, "UNMATCHED", math.inf)],
    "exploration": [(exploration.Exploration, "choose", lambda *_: None)],
    "drift of drafts": [
        (drift.Drift, "factor", lambda self, key: _factor(self, key) if key < 0 else 1.0)
    ],
    "drift of verifies": [
        (drift.Drift, "factor", lambda self, key: 1.0 if key < 0 else _factor(self, key))
    ],
    "time of the host": [
        (drift, "HOST_START", 0.0),
        (drift.HostTime, "observe", lambda *_, **__: None),
    ],
    "closed batches": [(remaining_length.RemainingLength, "is_closed", property(lambda _: False))],
    "late decisions": [(planner, "LOOK", 1), (planner, "IDLE", 1 << 30)],
    "bursts": [(planner.CostPlanner, "plain_for", lambda *_: 1)],
    "hysteresis": [(optimiser, "HYSTERESIS", 0.0)],
}
CONSTANTS: Final[Sequence[tuple[Any, str, Sequence[Any]]]] = (
    (acceptance, "FADE", (0.98, 0.995)),
    (acceptance, "PRIOR_WEIGHT", (2.0, 8.0)),
    (acceptance, "HOPE", (1.0, 2.33)),
    (candidates, "MATCHES", (((1, 0.4), (5, 0.75)), ((1, 0.4), (3, 0.6), (6, 0.8), (12, 0.9)))),
    (candidates, "DRAFT_LENGTH", (6, 12)),
    (candidates, "LOOKUP_LENGTH", (8, 14)),
    (drift, "COMMON_RATE", (1 / 8, 1 / 32)),
    (drift, "OWN_RATE", (1 / 16, 1 / 64)),
    (drift, "TABLE_WEIGHT", (1, 16)),
    (drift, "LARGEST_STEP", (0.1, 1.0)),
    (drift, "HOST_STEP", (1.005, 1.05)),
    (acceptance, "STALE_AFTER", (64.0, 1024.0)),
    (exploration, "SHARES", ((0.001, 0.01), (0.01, 0.01))),
    (exploration, "SAVED", ((2.0, 32.0), (8.0, 32.0))),
    (optimiser, "HYSTERESIS", (0.005, 0.02)),
    (optimiser, "TRIAL_LENGTH", (1, 4)),
    (planner, "EXPLORE", (16, 64)),
    (planner, "IDLE", (1, 4)),
    (planner, "LOOK", (2, 8)),
    (planner, "REVIEW", (8, 32)),
    (planner, "UNMATCHED", (4.0, 64.0)),
    (planner, "BEGUN_FADE", (0.95, 0.99)),
)


def main() -> None:
    arguments = _parse()
    settings = _settings(arguments)
    recordings = _recordings(arguments)
    occasion = Occasion.begin(arguments.name, threads=1)
    cells = [
        (name, batch)
        for name, setting in settings.items()
        for batch in arguments.batches
        if batch > 1 or not setting.is_closed
    ]

    def speeds(name: str, batch: int) -> dict[str, float]:
        return {
            kind: statistics.harmonic_mean(replay(texts, batch, settings[name], [AUTO])[AUTO])
            for kind, texts in recordings.items()
        }

    whole = {cell: speeds(*cell) for cell in cells}
    for change, patches in _changes(arguments.constants):
        rows: list[Row] = []
        for cell in cells:
            with _changed(patches):
                changed = speeds(*cell)
            ratios = {kind: changed[kind] / speed for kind, speed in whole[cell].items()}
            subject = Subject.ours(layout(None), 0, f"{AUTO} without {change}")
            rows.append(
                occasion.row(
                    subject,
                    f"ablation {cell[0]} x{cell[1]}",
                    "x",
                    list(ratios.values()),
                    details={"kinds": ratios},
                )
            )
            told = " ".join(f"{kind} {ratio:.3f}" for kind, ratio in ratios.items())
            print(f"{change:32} {cell[0]:8} x{cell[1]:<3} {told}", flush=True)
        keep(arguments.output, rows)


def _settings(arguments: argparse.Namespace) -> dict[str, Setting]:
    table = read_table(arguments.table or arguments.recordings / "table.json")
    target, tokens = Level.parse(arguments.target), arguments.tokens
    plain = Setting(target, table, table, tokens)
    made = {"measured": plain, "closed": replace(plain, is_closed=True)}
    if arguments.busy is not None:
        busy = read_table(arguments.busy)
        made["busier"] = Setting(target, table, busy, tokens)
        made["quieter"] = Setting(target, busy, table, tokens)
    fast, flat = _scaled(table, 1 / FASTER), _flat(table, target)
    made["faster"] = Setting(target, fast, fast, tokens)
    made["flat"] = Setting(target, flat, flat, tokens)
    return {name: made[name] for name in made if name in arguments.machines}


def _scaled(table: CostTable, by: float) -> CostTable:
    return replace(
        table,
        linear={level: tuple(x * by for x in curve) for level, curve in table.linear.items()},
        attention=tuple(x * by for x in table.attention),
        drafts={level: (first * by, more * by) for level, (first, more) in table.drafts.items()},
    )


def _flat(table: CostTable, target: Level) -> CostTable:
    """Memory is the limit: a row more costs 1% of a forward, and four bits 0.6 of eight."""
    one = table.linear[str(target)][0]
    curve = tuple(one * (1 + 0.01 * (rows - 1)) for rows in table.rows)
    drafts = {level: tuple(0.6 * x for x in curve) for level in table.drafts}
    first = {level: (each[0], each[0]) for level, each in drafts.items()}
    return replace(table, linear={str(target): curve, **drafts}, drafts=first)


def _recordings(arguments: argparse.Namespace) -> dict[str, list[Recording]]:
    found = {kind: read(arguments.recordings / f"{kind}.jsonl") for kind in arguments.kinds}
    if len(found) > 1:
        found[MIXED] = [each for group in zip(*found.values(), strict=False) for each in group][:32]
    return found


def _changes(with_constants: bool) -> Iterator[tuple[str, Sequence[Patch]]]:
    if not with_constants:
        yield from MECHANISMS.items()
        return
    for module, name, values in CONSTANTS:
        for value in values:
            shown = f"{value:.4g}" if isinstance(value, float) else str(value)
            yield f"{name} = {getattr(module, name)}: {shown}", [(module, name, value)]


@contextmanager
def _changed(patches: Sequence[Patch]) -> Iterator[None]:
    with ExitStack() as stack:
        for of, attribute, value in patches:
            stack.enter_context(patch.object(of, attribute, value))
        yield


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("recordings", type=Path, help="directory made with --record")
    parser.add_argument("--name", required=True, help="what rows call the model")
    parser.add_argument("--table", type=Path, help="a cost table in the place of the recorded one")
    parser.add_argument("--busy", type=Path, help="a cost table of the same machine when busy")
    parser.add_argument("--target", default="w8a16")
    parser.add_argument("--kinds", type=names, default=",".join(KINDS))
    parser.add_argument("--batches", type=counts, default=(1, 4))
    parser.add_argument("--tokens", type=positive, default=128)
    parser.add_argument(
        "--machines", type=names, default="measured,closed,busier,quieter,faster,flat"
    )
    parser.add_argument("--constants", action="store_true", help="other values, not mechanisms")
    parser.add_argument("--output", type=Path, default=RESULTS / "ablation.jsonl")
    return parser.parse_args()


if __name__ == "__main__":
    from benchmarks.measure.process import guarded

    guarded(main)
