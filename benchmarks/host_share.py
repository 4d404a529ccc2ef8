"""The share of an engine's steps that is not spent in the native core.

    python -m benchmarks.host_share smollm2-135m --batch 1 16

A proxy counts the time inside the runtime's calls; the rest of `Engine.step`, and of turning its
tokens into text, is the host's. Shares are ratios, so they bear a busy machine. One JSON line each.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
from time import perf_counter, thread_time
from typing import Any

from halfbyte import LLM, SamplingParams
from halfbyte.request import Request


class TimedRuntime:
    """Passes every call on and counts the time of those that run the model."""

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self.seconds = 0.0
        self.cpu_seconds = 0.0  # of the calling thread

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._runtime, name)
        if name not in ("forward", "forward_sample", "draft"):
            return value

        def timed(*args: Any) -> Any:
            started, cpu_started = perf_counter(), thread_time()
            try:
                return value(*args)
            finally:
                self.seconds += perf_counter() - started
                self.cpu_seconds += thread_time() - cpu_started

        return timed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--cascade", default="w4a8 > w8a16")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--stop", default="", help="a stop string: text is then followed by token")
    parser.add_argument("--profile", type=int, default=0, help="print this many costly functions")
    arguments = parser.parse_args()
    llm = LLM(
        arguments.model,
        arguments.cascade,
        arguments.threads,
        max_batch=max(arguments.batch),
        prefix_cache=False,
    )
    timed = TimedRuntime(llm.model.runtime)
    llm.model.runtime = timed
    llm = llm.with_cascade(arguments.cascade)
    for batch in arguments.batch:
        print(json.dumps(measure(llm, timed, batch, arguments)))


def measure(
    llm: LLM, timed: TimedRuntime, batch: int, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Streams of `batch` prompts, from the first token of all of them on."""
    stop = (arguments.stop,) if arguments.stop else ()
    params = SamplingParams(
        temperature=0.0, max_tokens=arguments.tokens, ignore_eos=True, stop=stop
    )
    engine = llm.engine()
    requests = []
    for i in range(batch):
        ids = llm.model.codec.encode(f"{i}. Once upon a time in a town by the sea,")
        request = Request(llm.model, ids, params, follow=True)
        requests.append(request)
        engine.add(request.sequence)
    while any(r.sequence.emitted_len == 0 for r in requests):
        engine.step()
    timed.seconds = timed.cpu_seconds = 0.0
    steps = 0
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
    return {
        "model": arguments.model,
        "cascade": arguments.cascade,
        "batch": batch,
        "steps": steps,
        "host_microseconds_a_step": 1e6 * (total - timed.seconds) / steps,
        # Of a busy machine, less what others took from the thread.
        "host_cpu_microseconds_a_step": 1e6 * (cpu - timed.cpu_seconds) / steps,
        "host_share": (total - timed.seconds) / total,
    }


if __name__ == "__main__":
    main()
