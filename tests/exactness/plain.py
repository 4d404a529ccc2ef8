"""Plain decoding of one sequence on its own: what everything else must equal bit for bit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from halfbyte.config import Level
from halfbyte.runtime.protocol import Runtime, SamplingRow
from tests.exactness.driver import GREEDY, Driver, Request, committed_kv
from tests.support.runtimes import random_tokens, shared
from tests.support.tiny_models import tiny

SAMPLED = SamplingRow(temperature=1.0, seed=2**63 + 5)
FILTERED = SamplingRow(temperature=0.8, top_k=40, top_p=0.95, min_p=0.02, seed=3)
SAMPLERS = {"greedy": GREEDY, "sampled": SAMPLED, "filtered": FILTERED}

# target, draft; the last pair reads equal bytes, the first and third nest.
PAIRS = [
    ("w8a16", "w4a8"),
    ("w4a16", "w4a4"),
    ("w8a8", "w4a8"),
    ("w8a16", "w8a8"),
    ("w4a16", "w4a8"),
]


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that must not change."""

    tokens: tuple[int, ...]
    logprobs: bytes  # raw float32
    kv: bytes  # raw bits of the committed positions


def outcome(runtime: Runtime, request: Request) -> Outcome:
    logprobs = b"".join(x.tobytes() for x in request.logprobs)
    return Outcome(tuple(request.tokens), logprobs, committed_kv(runtime, request))


def prompt_of(model: str, length: int, seed: int) -> list[int]:
    return [int(t) for t in random_tokens(length, tiny(model).config.vocab_size, seed)]


@cache
def plain(
    kind: str,
    model: str,
    target: str,
    sampling: SamplingRow,
    prompt_len: int,
    seed: int,
    max_tokens: int,
) -> Outcome:
    """One thread, pages of 64, the prompt in one forward, one token per step, no company."""
    runtime = shared(kind, model, page_size=64, threads=1)
    request = Request(prompt_of(model, prompt_len, seed), max_tokens, sampling)
    Driver(runtime, Level.parse(target)).run([request])
    return outcome(runtime, request)
