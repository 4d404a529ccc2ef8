"""The requests of a soak: which kind each is and what it says, from a seed and its number alone.

What a request is does not depend on how the others fare: one that is told to come again later comes
again as it was, and every kind gets its share.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.soak.asked import CHAT, COMPLETIONS, constrained, conversation

# Equally many of each; tools only where the model's template knows them.
KINDS = ("stream", "whole", "left", "malformed", "chat", "structured")
TOOLS = ("tools",)
MALFORMED: Sequence[bytes] = (
    b"",
    b"{",
    b"[" * 100_000,
    b"\xff" * 50,
    b'{"prompt": 5}',
    b'{"prompt": []}',
    b'{"prompt": [99999999]}',
    b'{"prompt": "a", "max_tokens": -1}',
    b'{"prompt": "a", "n": 1000000}',
    b'{"prompt": "a", "cascade": "model:/etc/passwd@w4a8 > w8a16"}',
    b'{"prompt": "a", "structured_outputs": {"regex": "("}}',
    b'{"prompt": "a", "logit_bias": {"99999999": 1}}',
    b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
    b'{"messages": 1, "prompt": 1}',
    b'{"prompt": "a", "unknown": 1}',
)


@dataclass(frozen=True, slots=True)
class Order:
    """One request; `cut`: events after which its client goes away, None for never."""

    kind: str
    path: str
    body: Mapping[str, Any] | bytes
    cut: int | None = None


@dataclass(frozen=True, slots=True)
class Orders:
    """`longest`: tokens of an answer; `vocab`: ids of prompts are below it; `cascades`: asked for,
    None for the server's own; `tools`: whether the model's template knows them."""

    longest: int
    vocab: int
    cascades: Sequence[str | None]
    tools: bool = False

    def draw(self, count: int, seed: int) -> Iterator[Order]:
        """`count` requests, as many of each kind, one more at most."""
        kinds = KINDS + (TOOLS if self.tools else ())
        dealt = [kinds[number % len(kinds)] for number in range(count)]
        random.Random(seed).shuffle(dealt)
        for number, kind in enumerate(dealt):
            yield self._order(kind, random.Random(f"{seed}/{number}"))

    def _order(self, kind: str, rng: random.Random) -> Order:
        if kind == "malformed":
            return Order(kind, rng.choice((COMPLETIONS, CHAT)), rng.choice(MALFORMED))
        path, cut = COMPLETIONS, None
        if kind in ("chat", "tools"):
            path, body = CHAT, conversation(rng, self.longest, tools=kind == "tools")
        elif kind == "structured":
            body = constrained(rng, self.longest)
        else:
            body = self._completion(rng) | {"stream": kind != "whole"}
            cut = rng.randint(0, 12) if kind == "left" else None
        return Order(kind, path, body | {"cascade": rng.choice(self.cascades)}, cut)

    def _completion(self, rng: random.Random) -> dict[str, Any]:
        shared = [(7 * i) % self.vocab for i in range(rng.choice((0, 64, 256)))]
        return {
            "prompt": shared + [rng.randrange(self.vocab) for _ in range(rng.randint(1, 40))],
            "temperature": rng.choice((0, 0.8)),
            "seed": rng.randrange(2**63),
            "max_tokens": rng.randint(1, self.longest),
            "repetition_penalty": rng.choice((1.0, 1.0, 1.1)),
            "stop": rng.choice(([], [], ["."], ["the ", "\n"])),
            "ignore_eos": rng.random() < 0.5,
            "logprobs": 0,
            "priority": rng.choice((0, 0, 1)),
        }
