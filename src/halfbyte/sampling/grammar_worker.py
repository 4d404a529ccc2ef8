"""The process in which grammars are tried before the engine compiles them: bounded time and memory.

The library bounds what a grammar takes of its parsers, but not all that it does while it compiles
one: `multipleOf` a large number, or many expressions of one text, take time and memory without end,
in a call that nothing can interrupt. Here the system ends it. It is run by path and speaks as
`helper_process` does: {} -> {"names"}; then {"form", "limits", "seconds"} -> {"text": ""} where the
form can be compiled or is refused, both soon. Its tokens are the bytes: what those of a model add
is bounded.
"""

from __future__ import annotations

import math
import resource
import signal
import sys

import llguidance

from halfbyte.helper_worker import ORPHAN_SECONDS, confine, receive, send

MEMORY_BYTES = 1 << 30  # of address space


def _give_seconds(seconds: float) -> None:
    """Of a processor, from now on: then SIGXCPU ends the process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    most = math.ceil(usage.ru_utime + usage.ru_stime + seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (most, resource.RLIM_INFINITY))


def main() -> None:
    """Serve until stdin ends."""
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    tokenizer = llguidance.LLTokenizer("byte")
    confine(MEMORY_BYTES)
    while (following := receive(stdin)) is not None:
        number, request = following
        if "form" not in request:
            send(stdout, number, {"names": {}})
            continue
        signal.alarm(ORPHAN_SECONDS)
        _give_seconds(request["seconds"])
        limits = llguidance.LLParserLimits(**request["limits"])
        llguidance.LLMatcher(tokenizer, request["form"], log_level=0, limits=limits)
        signal.alarm(0)
        send(stdout, number, {"text": ""})


if __name__ == "__main__":
    main()
