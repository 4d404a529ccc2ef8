"""Tables of `benchmarks.planner`: `auto` beside plain decoding, fixed cascades and a peer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.measure.rows import Row
from benchmarks.report.markdown import ratio, speed, table
from benchmarks.report.selection import OURS, kind_order


@dataclass(frozen=True, slots=True)
class Comparison:
    """The rows of one kind of work and batch, all of one run."""

    kind: str
    batch: int
    plain: Row
    auto: Row
    fixed: Sequence[Row]  # with the same target, plain decoding among them
    others: Sequence[Row]  # plain decoding at other levels
    peers: Sequence[Row]

    @property
    def best(self) -> Row:
        """The fastest fixed cascade."""
        return max(self.fixed, key=lambda row: row.spread.median)


def comparisons(rows: Sequence[Row]) -> list[Comparison]:
    """In the order of kinds of work, then by batch; without `auto` or plain decoding none."""
    found = []
    for metric in dict.fromkeys(row.metric for row in rows):
        _, kind, batch = metric.split()
        own = [row for row in rows if row.metric == metric]
        auto = [row for row in own if row.cascade.startswith("auto")]
        if not auto:
            continue
        run = [row for row in own if row.date == auto[0].date and row not in auto]
        ours = [row for row in run if row.engine == OURS]
        plain = [row for row in ours if ">" not in row.cascade]
        if plain:
            target = plain[0].cascade
            fixed = [row for row in ours if (row.details or {}).get("target", target) == target]
            others = [row for row in ours if row not in fixed]
            peers = [row for row in run if row.engine != OURS]
            size = int(batch.lstrip("x"))
            found.append(Comparison(kind, size, plain[0], auto[0], fixed, others, peers))
    return sorted(found, key=lambda each: (kind_order(each.kind), each.batch))


def planner_table(rows: Sequence[Row]) -> str:
    """One line per kind of work and batch."""
    found = comparisons(rows)
    head = ["prompts", "batch", "plain", "`auto`", "`auto` / plain", "best fixed cascade"]
    head += ["`auto` / best", "identical", "plain peer", "`auto` / peer"]
    lines = []
    for each in found:
        told = each.auto.details or {}
        peer = each.peers[0] if each.peers else None
        of_peer = ratio(told["of_peer"], told.get("of_peer_interval")) if peer else ""
        lines.append(
            [
                each.kind,
                str(each.batch),
                speed(each.plain.spread),
                speed(each.auto.spread),
                ratio(told["speedup"], told.get("speedup_interval")),
                f"`{each.best.cascade}`: {speed(each.best.spread)}",
                ratio(told["of_best_fixed"], told.get("of_best_fixed_interval")),
                "yes" if told["identical"] else "**no**",
                f"{peer.engine} {peer.format}: {speed(peer.spread)}" if peer else "",
                of_peer,
            ]
        )
    return table(head, lines)


def offers(rows: Sequence[Row]) -> str:
    """The cascades `auto | …` of some rows."""
    names = dict.fromkeys(row.cascade for row in rows if row.cascade.startswith("auto"))
    return " and ".join(f"`{name}`" for name in names)
