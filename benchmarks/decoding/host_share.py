"""The share of an engine's steps that is not spent in the native core.

    python -m benchmarks.decoding.host_share --name smollm2-135m --model smollm2-135m

A proxy counts the time inside the runtime's calls; the rest of `Engine.step`, and of turning its
tokens into text, is the host's. Another proxy counts what of it is the planner's own. Shares are
ratios, so they bear a busy machine. A row for every cascade and batch: the share over rounds, in
per cent, and the microseconds behind it.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter, thread_time
from typing import Any

from benchmarks.measure.arguments import add_model, names, positive
from benchmarks.measure.occasion import Occasion, Subject
from benchmarks.measure.process import guarded
from benchmarks.measure.rows import RESULTS, keep, layout
from halfbyte import LLM, SamplingParams
from halfbyte.api.request import Request
from halfbyte.cascade.cascade import Cascade
from halfbyte.cascade.planning import Planner
from halfbyte.engine.engine import Engine


class TimedRuntime:
    """Passes every call on and counts the time of those that run the model."""

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self.seconds = 0.0
        self.cpu_seconds = 0.0  # of the calling thread

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._runtime, name)
        if name not in ("forward", "forward_sample", "decode", "draft", "draft_and_verify"):
            return value

        def timed(*args: Any) -> Any:
            started, cpu_started = perf_counter(), thread_time()
            try:
                return value(*args)
            finally:
                self.seconds += perf_counter() - started
                self.cpu_seconds += thread_time() - cpu_started

        return timed


class TimedPlanner:
    """Passes every call on and counts the time of those made in every cycle."""

    def __init__(self, planner: Planner) -> None:
        self._planner = planner
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._planner, name)
        if name not in ("plan", "plain_for", "learn"):
            return value

        def timed(*args: Any) -> Any:
            started = perf_counter()
            try:
                return value(*args)
            finally:
                self.seconds += perf_counter() - started

        return timed


@dataclass(frozen=True, slots=True)
class Reading:
    """One round of one batch: microseconds per step, of all and of the host."""

    step: float
    host: float
    host_cpu: float  # of a busy machine, less what others took from the thread
    planner: float  # its own, part of the host's
    tokens: float  # of all sequences

    @property
    def share(self) -> float:
        """Of the host, in per cent."""
        return 100 * self.host / self.step


def main() -> None:
    arguments = _parse()
    llm = LLM(
        arguments.model,
        arguments.cascades[0],
        arguments.threads,
        planes=arguments.planes,
        max_batch=max(arguments.batch),
        prefix_cache=False,
    )
    size = llm.model.runtime.weight_bytes(llm.cascade.target)
    timed = TimedRuntime(llm.model.runtime)
    llm.model.runtime = timed
    occasion = Occasion.begin(arguments.name, arguments.threads)
    rows = []
    for cascade in arguments.cascades:
        chosen = llm.with_cascade(cascade)
        subject = Subject.ours(layout(arguments.planes), size, cascade)
        for batch in arguments.batch:
            readings = [measure(chosen, timed, batch, arguments) for _ in range(arguments.rounds)]
            middle = sorted(readings, key=lambda r: r.share)[len(readings) // 2]
            shares = [r.share for r in readings]
            details = {name: round(value, 2) for name, value in asdict(middle).items()}
            row = occasion.row(subject, f"host share {batch}", "%", shares, details=details)
            rows.append(row)
            print(f"{cascade:16} batch {batch:2} {row.spread.median:6.2f} %  {row.details}")
    keep(arguments.output, rows)


def measure(llm: LLM, timed: TimedRuntime, batch: int, arguments: argparse.Namespace) -> Reading:
    """Streams of `batch` prompts, from the first token of all of them on."""
    stop = (arguments.stop,) if arguments.stop else ()
    params = SamplingParams(
        temperature=0.0, max_tokens=arguments.tokens, ignore_eos=True, stop=stop
    )
    planners: list[TimedPlanner] = []

    def make_planner(cascade: Cascade) -> Planner:
        planners.append(TimedPlanner(llm.planner(cascade)))
        return planners[-1]

    engine = Engine(llm.model.runtime, llm.model.pool, llm.cascade, llm.options, make_planner)
    requests = []
    for i in range(batch):
        ids = llm.model.codec.encode(f"{i}. Once upon a time in a town by the sea,")
        request = Request(llm.model, ids, params, follow=True)
        requests.append(request)
        engine.add(request.sequence)
    while any(r.sequence.emitted_len == 0 for r in requests):
        engine.step()
    timed.seconds = timed.cpu_seconds = 0.0
    for planner in planners:
        planner.seconds = 0.0
    steps, emitted = 0, sum(r.sequence.emitted_len for r in requests)
    profile = cProfile.Profile() if arguments.profile else None
    if profile:
        profile.enable()
    started, cpu_started = perf_counter(), thread_time()
    while engine.has_work:
        engine.step()
        steps += 1
        for request in requests:
            request.take_chunk()
    total, cpu = perf_counter() - started, thread_time() - cpu_started
    if profile:
        profile.disable()
        pstats.Stats(profile).sort_stats("tottime").print_stats(arguments.profile)
    return Reading(
        step=1e6 * total / steps,
        host=1e6 * (total - timed.seconds) / steps,
        host_cpu=1e6 * (cpu - timed.cpu_seconds) / steps,
        planner=1e6 * sum(planner.seconds for planner in planners) / steps,
        tokens=(sum(r.sequence.emitted_len for r in requests) - emitted) / steps,
    )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    add_model(parser)
    parser.add_argument("--cascades", type=names, default="auto,w8a16,w4a8,w4a8 > w8a16")
    parser.add_argument("--batch", type=positive, nargs="+", default=[1, 16])
    parser.add_argument("--tokens", type=positive, default=128)
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--stop", default="", help="a stop string: text is then followed by token")
    parser.add_argument("--profile", type=int, default=0, help="print this many costly functions")
    parser.add_argument("--output", type=Path, default=RESULTS / "host_share.jsonl")
    return parser.parse_args()


if __name__ == "__main__":
    guarded(main)
