"""Peers' plain decoding, measured before each timed queue of ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.measure.loop import Runs
from benchmarks.measure.occasion import Occasion, Subject
from benchmarks.measure.paired import Ratio
from benchmarks.measure.process import run
from benchmarks.measure.rows import Row
from benchmarks.peers.contenders import Contender, Reading, Task

TASK = Task("decode", 64, 128)


@dataclass(slots=True)
class Beside:
    """The readings of every peer, one per queue."""

    peers: Sequence[Contender]
    cpus: Sequence[int]
    readings: list[list[Reading]] = field(init=False)

    def __post_init__(self) -> None:
        self.readings = [[] for _ in self.peers]

    def __call__(self) -> None:
        """Ask every peer once."""
        for peer, own in zip(self.peers, self.readings, strict=True):
            done = run(peer.command(TASK), self.cpus, peer.environment)
            own.append(peer.read(done.output))

    def rows(self, occasion: Occasion, metric: str) -> list[Row]:
        """One per peer."""
        return [
            occasion.row(
                Subject(peer.engine, own[-1].version, peer.format, own[-1].num_bytes),
                metric,
                "tok/s",
                [reading.value for reading in own],
            )
            for peer, own in zip(self.peers, self.readings, strict=True)
        ]

    def compare(self, runs: Runs) -> dict[str, Any]:
        """Details of our runs, queue by queue beside the first peer's."""
        if not self.peers:
            return {}
        ratio = Ratio.of(runs.queues, [reading.value for reading in self.readings[0]])
        return {"of_peer": ratio.median, "of_peer_interval": ratio.interval}
