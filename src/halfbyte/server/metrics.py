"""GET /metrics: the engine's snapshot and the server's own counts, for Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from halfbyte.api.async_engine import AsyncEngine
from halfbyte.api.metrics import Histogram, Snapshot
from halfbyte.server.watchdog import Watchdog

_GAUGES = {
    "waiting": "Requests accepted that do not run yet",
    "running": "Requests being prefilled or decoded",
    "num_pages": "KV pages",
    "free_pages": "KV pages that a request may take",
    "cached_pages": "Free KV pages that hold a reusable prefix",
}
_TOTALS = {
    "requests": "Requests accepted",
    "refused": "Requests refused because the queue was full",
    "prompt_tokens": "Prompt tokens of accepted requests",
    "cached_tokens": "Prompt tokens found in the prefix cache",
    "emitted_tokens": "Tokens sent",
    "preemptions": "Requests that gave their pages back and ran again",
    "steps": "Engine steps",
    "target_forwards": "Verify forwards at a target level",
    "draft_forwards": "Forwards at a draft level",
    "prefill_seconds": "Time in prefill forwards",
    "draft_seconds": "Time in draft forwards",
    "verify_seconds": "Time in verify forwards",
    "host_seconds": "Time of decoding outside the runtime",
}
_HISTOGRAMS = {
    "queue_time": "From arrival to admission",
    "time_to_first_token": "From arrival to the first token",
    "time_between_tokens": "Between two tokens of a request",
    "request_time": "From arrival to the last token",
}


class EngineCollector(Collector):
    """Reads a snapshot when it is asked, so that nothing is counted twice."""

    def __init__(
        self, engine: AsyncEngine, answers: Counter[tuple[str, int]], watchdog: Watchdog
    ) -> None:
        self._engine = engine
        self._answers = answers
        self._watchdog = watchdog

    def collect(self) -> Iterator[Metric]:
        """Every family."""
        snapshot = self._engine.snapshot()
        for name, text in _GAUGES.items():
            yield GaugeMetricFamily(f"halfbyte_{name}", text, value=getattr(snapshot, name))
        for name, text in _TOTALS.items():
            yield CounterMetricFamily(f"halfbyte_{name}", text, value=getattr(snapshot, name))
        for name, text in _HISTOGRAMS.items():
            yield _histogram(f"halfbyte_{name}_seconds", text, getattr(snapshot, name))
        yield GaugeMetricFamily(
            "halfbyte_stalled_seconds",
            "How long requests have waited for one step to end",
            value=self._engine.stalled_seconds,
        )
        yield CounterMetricFamily(
            "halfbyte_stalls",
            "Steps that did not end in a minute",
            value=self._watchdog.num_stalls,
        )
        yield from _labelled(snapshot)
        family = CounterMetricFamily(
            "halfbyte_http_answers", "HTTP answers", labels=("path", "status")
        )
        for (path, status), count in self._answers.items():
            family.add_metric((path, str(status)), count)
        yield family


def _labelled(snapshot: Snapshot) -> Iterator[Metric]:
    family = CounterMetricFamily("halfbyte_finished", "Requests ended", labels=("reason",))
    for reason, count in snapshot.finished.items():
        family.add_metric((reason,), count)
    yield family
    for verb, counts in (
        ("proposed", snapshot.proposed_by_position),
        ("accepted", snapshot.accepted_by_position),
    ):
        family = CounterMetricFamily(
            f"halfbyte_{verb}_tokens", f"Draft tokens {verb}, by position", labels=("position",)
        )
        for position, count in enumerate(counts):
            family.add_metric((str(position),), count)
        yield family
    family = CounterMetricFamily(
        "halfbyte_choices",
        "Cascade and draft length chosen, per sequence and step",
        labels=("cascade", "draft_length"),
    )
    for (cascade, length), count in snapshot.turns.items():
        family.add_metric((cascade, str(length)), count)
    yield family


def _histogram(name: str, text: str, values: Histogram) -> HistogramMetricFamily:
    buckets, below = [], 0
    for bound, count in zip((*map(str, values.bounds), "+Inf"), values.counts, strict=True):
        below += count
        buckets.append((bound, below))
    return HistogramMetricFamily(name, text, buckets=buckets, sum_value=values.total)


async def metrics(request: Request) -> Response:
    """Prometheus' text format."""
    registry: CollectorRegistry = request.app.state.registry
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
