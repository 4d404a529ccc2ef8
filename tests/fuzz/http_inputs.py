"""What the server's fuzz targets send: seeds of a small corpus, changed as bytes or as JSON.

Each target runs for `SECONDS` (HALFBYTE_FUZZ_SECONDS, an hour before a release) and names the seed
of an input that fails. What a failure taught becomes a file of the corpus.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).parents[1] / "data" / "fuzz"
SECONDS = float(os.environ.get("HALFBYTE_FUZZ_SECONDS", "60"))
FIRST = int(os.environ.get("HALFBYTE_FUZZ_SEED", "0"))  # repeats a failure with SECONDS=1

NUMBERS = (0, 1, -1, 2, 16, 17, 255, 256, 65536, 2**31 - 1, 2**31, -(2**31), 2**53, 2**63, 2**64)
FLOATS = (0.0, -0.0, 0.5, 1.0, 1e-320, 1e308, -1e308)
TEXTS = (
    "",
    " ",
    "a",
    "\0",
    "\n",
    "\u2028",
    "é",
    "日本",
    "🙂",
    "\ufeff",
    "a" * 300,
    "{{ 7*7 }}",
    "../x",
)
VALUES: tuple[Any, ...] = (None, True, False, [], {}, [[]], [None], *NUMBERS, *FLOATS, *TEXTS)


def seeds(name: str) -> list[bytes]:
    """The files of one corpus."""
    found = [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]
    assert found, f"an empty corpus: {name}"
    return found


def rounds(seconds: float = SECONDS, first: int = FIRST) -> Iterator[tuple[int, random.Random]]:
    """Seeds and the randomness that each begins, until the time is over."""
    end, seed = time.monotonic() + seconds, first
    while time.monotonic() < end:
        yield seed, random.Random(seed)
        seed += 1


def mutated_bytes(rng: random.Random, corpus: list[bytes], words: tuple[bytes, ...]) -> bytes:
    """A seed after a few cuts, copies, flips, splices and words of the format."""
    data = bytearray(rng.choice(corpus))
    for _ in range(rng.choice((0, 1, 1, 2, 3, 5, 9))):
        at = rng.randint(0, len(data))
        size = min(rng.choice((1, 1, 2, 4, 8, 30)), len(data) - at)
        kind = rng.randrange(7)
        if kind == 0:
            del data[at : at + size]
        elif kind == 1:
            data[at:at] = data[at : at + size] * rng.choice((1, 2, 9, 300))
        elif kind == 2 and size:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 3 and size:
            data[at] = rng.randrange(256)
        elif kind == 4:
            other = rng.choice(corpus)
            data[at:] = other[rng.randint(0, len(other)) :]
        elif kind == 5:
            data[at:at] = rng.choice(words)
        else:
            data[at : at + size] = rng.choice(words)
    return bytes(data[: 1 << 20])


def mutated_json(rng: random.Random, corpus: list[bytes], names: tuple[str, ...]) -> bytes:
    """A seed after a few changes of its values and fields; now and then its bytes as well."""
    value = json.loads(rng.choice(corpus))
    for _ in range(rng.choice((0, 1, 1, 2, 3, 6))):
        value = _changed(rng, value, names)
    data = json.dumps(value, ensure_ascii=rng.random() < 0.5).encode("utf-8", "replace")
    if rng.random() < 0.1:
        data = mutated_bytes(rng, [data], (b"{", b"}", b"[", b'"', b",", b"\\u", b"\xff", b"NaN"))
    return data


def _changed(rng: random.Random, value: Any, names: tuple[str, ...]) -> Any:
    """`value` with one change, somewhere in it."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        name = rng.choice(list(value))
        kind = rng.randrange(8)
        if kind == 0:
            return {n: v for n, v in value.items() if n != name}
        if kind == 1:
            return value | {rng.choice(names): value[name]}
        if kind == 2:
            return value | {rng.choice(names): rng.choice(VALUES)}
        return value | {name: _changed(rng, value[name], names)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        kind = rng.randrange(8)
        if kind == 0:
            return value[:at] + value[at + 1 :]
        if kind == 1:
            return value[:at] + value[at : at + 1] * rng.choice((2, 3, 70, 5000)) + value[at:]
        return [*value[:at], _changed(rng, value[at], names), *value[at + 1 :]]
    kind = rng.randrange(6)
    if kind == 0:
        return [value]
    if kind == 1:
        return {rng.choice(names): value}
    if kind == 2 and isinstance(value, str):
        at = rng.randint(0, len(value))
        return value[:at] + rng.choice(TEXTS) + value[at:] * rng.choice((1, 1, 40))
    if kind == 3 and isinstance(value, int | float):
        return value * rng.choice((-1, 2, 1000)) + rng.choice((-1, 0, 1, 0.5))
    return rng.choice(VALUES)
