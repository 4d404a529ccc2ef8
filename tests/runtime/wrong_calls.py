"""Calls of the native module with wrong arguments: an exception or an answer, never a signal.

Right calls are recorded from what the runtimes do with small models; each is then made again with
some arguments changed (types, shapes, ranges, alignment). After every few a right call must still
give the bits it gave before. A process of its own, since a fault would end it:

    python -m tests.runtime.wrong_calls SEED COUNT
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfbyte import _native
from halfbyte.config import Level
from halfbyte.runtime import native, native_head
from halfbyte.runtime.protocol import Adjustments, Batch, DraftRun, Sampling
from tests.support.runtimes import prefix_batch, random_tokens
from tests.support.sampling import sampling
from tests.support.tiny_heads import HEADS, make_head
from tests.support.tiny_models import tiny

MODELS = (
    ("llama", "w8a16"),
    ("llama-reordered", "w4a8"),
    ("qwen2-tied-units-offsets-6-bits", "w8a8"),
    ("wide-rotated", "w4a4"),
    ("mistral-f16", "f32"),
    ("layers-sinks-experts", "w4a8"),
    ("layers-shared-experts", "w8a16"),
)
EDGES = (-1, 0, 1, 2, 15, 16, 255, 4096, 4097, 2**20, 2**30, 2**31 - 1, -(2**31))
BEYOND = (2**31, 2**32, 2**63 - 1, -(2**63), 2**63, 2**70)
SLOTS = (
    "qkv",
    "o",
    "gate_up",
    "down",
    "embed",
    "head",
    "fuse",
    "final_norm",
    "q_norm",
    "router",
    "router_bias",
    "shared_gate_up",
    "gate_up_bias",
    "sinks",
    "",
    "qkv\0",
)
OTHERS = (None, True, "x", b"x", 1.5, 7, (), [], {}, object(), np.zeros(3), np.zeros((2, 2), "i4"))


@dataclass(frozen=True, slots=True)
class Call:
    """A right call: of a model, or (`model` None) of the module."""

    model: Any
    name: str
    positional: tuple[Any, ...]
    named: dict[str, Any]


class Recorder:
    """Stands in for `_native`: makes models whose calls are kept, in order."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def NativeModel(self, *positional: Any) -> Any:  # noqa: N802
        self.calls.append(Call(None, "NativeModel", positional, {}))
        return _Recorded(_native.NativeModel(*positional), self.calls)


class _Recorded:
    def __init__(self, model: Any, calls: list[Call]) -> None:
        self.model, self._calls = model, calls

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.model, name)
        if not callable(found):
            return found

        def call(*positional: Any, **named: Any) -> Any:
            bare = tuple(p.model if isinstance(p, _Recorded) else p for p in positional)
            self._calls.append(Call(self.model, name, bare, named))
            return found(*bare, **named)

        return call


def _sampling(rows: int, vocab: int) -> Sampling:
    one = np.ones((1, -(-vocab // 32)), np.uint32)
    return sampling(
        rows,
        temperature=np.linspace(0, 1.5, rows),
        top_k=20,
        top_p=0.9,
        min_p=0.05,
        seed=np.arange(rows),
        position=np.arange(rows),
        tops=3,
        adjustments=Adjustments(
            starts=np.arange(rows + 1, dtype=np.int32),
            ids=np.arange(rows, dtype=np.int32),
            adds=np.ones(rows, np.float32),
            factors=np.ones(rows, np.float32),
            subtracts=np.zeros(rows, np.float32),
            mask_rows=np.where(np.arange(rows) % 2, 0, -1).astype(np.int32),
            masks=one,
        ),
    )


def _use(name: str, text: str) -> tuple[list[Call], list[Call]]:
    """Every call of a runtime and of a draft head beside it: those that load, those that run."""
    recorder = Recorder()
    weights, level = tiny(name), Level.parse(text)
    native._native, native_head._native = recorder, recorder  # type: ignore[assignment]
    try:
        runtime = native.NativeRuntime(
            weights, threads=2, tier=_native.tiers()[-1], num_tokens=512, page_size=16, max_rows=64
        )
        head = make_head(HEADS["eagle3"])
        beside = (
            native_head.NativeHead(head, runtime, weights, max_rows=64) if name == "llama" else None
        )
    finally:
        native._native = native_head._native = _native
    loading = list(recorder.calls)
    recorder.calls.clear()
    vocab, tokens = weights.config.vocab_size, random_tokens(20)
    two = Batch(
        tokens[:2],
        np.array([0, 1, 2], np.int32),
        np.array([5, 18], np.int32),
        np.arange(6, dtype=np.int32).reshape(2, 3),
    )
    paths = np.array([[0, -1, -1], [0, 1, -1], [0, 2, -1], [0, 1, 3]], np.int32)
    tree = Batch(
        tokens[:4], np.array([0, 4], np.int32), np.array([16], np.int32), two.page_tables[:1], paths
    )
    rows = np.arange(4, dtype=np.int32)
    lengths = np.array([3, 4], np.int32)
    runtime.forward(prefix_batch(tokens, 16), level, rows)
    runtime.forward(tree, level, rows)
    runtime.forward_sample(tree, level, rows, _sampling(4, vocab))
    run = DraftRun(level, lengths, 0.1)
    runtime.draft(two, run, _sampling(2, vocab))
    runtime.decode(two, level, 4, _sampling(2, vocab))
    runtime.draft_and_verify(two, run, level, _sampling(2, vocab))
    ids = np.arange(0, vocab, 3, dtype=np.int32)
    if text != "f32":
        reduced = DraftRun(level, lengths, head=runtime.reduce_head(ids))
        runtime.draft(two, reduced, _sampling(2, vocab))
    runtime.copy_kv(two.page_tables[0], np.array([17, 20], np.int32), np.array([3, 4], np.int32))
    starts = np.array([0, 3, 5], np.int32)
    width = weights.config.hidden_size
    runtime.run_layer(0, np.ones((5, width), np.float32), starts, level)
    runtime.read_kv(1, 2)
    runtime.weight_bytes(level)
    runtime.interrupt(wanted=False)
    if beside is not None:
        runtime.read_features(two.page_tables[0], np.array([0, 19], np.int32))
        features = np.ones((20, 3 * width), np.float32)
        beside.forward(prefix_batch(tokens, 16), Level(8, 8), features, rows, 5)
        beside.weight_bytes(Level(8, 8))
    return loading, recorder.calls


def _of_the_module() -> list[Call]:
    index = _native.SuffixIndex(8)
    index.extend([1, 2, 3, 1, 2])
    rng = np.random.default_rng(0)
    group = rng.standard_normal((4, 6)).astype(np.float32)
    many = np.stack([group, group])
    rounding = (group, many, np.eye(4, dtype=np.float32), np.ones(4, np.float32), many, many, 0.5)
    calls: list[tuple[Any, str, tuple[Any, ...]]] = [
        (None, "SuffixIndex", (8,)),
        (index, "extend", ([4, 5],)),
        (index, "follow", (index.slice(0, 99),)),
        (index, "find", ([1, 2],)),
        (index, "slice", (0, 3)),
        (None, "match_lengths", ([index], [index.slice(0, 99)])),
        (None, "round_group", rounding),
        (None, "read_bandwidth", (1, 1 << 14)),
        (None, "linear_rate", (1, "scalar")),
    ]
    return [Call(model, name, arguments, {}) for model, name, arguments in calls]


class Changes:
    """Wrong values in place of right ones."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def value(self, right: Any) -> Any:
        """Something else, most often of the same kind."""
        pick = self._random.choice
        if self._random.random() < 0.1:
            return pick(OTHERS)
        if isinstance(right, np.ndarray):
            return self._array(right) if right.dtype.kind in "iuf" else pick(OTHERS)
        if isinstance(right, bool):
            return not right
        if isinstance(right, int):
            return pick((*EDGES, *BEYOND, right + 1, right - 1, 2 * right, -right))
        if isinstance(right, float):
            return pick((float("nan"), float("inf"), -float("inf"), 0.0, -1.0, 1e-300, 1e300))
        if isinstance(right, str):
            return pick((*SLOTS, "f32", "bf16", "avx2", "x" * 10_000))
        if isinstance(right, tuple | list):
            return self._items(right)
        if is_dataclass(right) and not isinstance(right, type):
            return self._attributes(right)
        return pick(OTHERS)

    def call(self, right: Call) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call, one to three of them wrong; at times one too few or many."""
        positional, named = list(right.positional), dict(right.named)
        for _ in range(self._random.choice((1, 1, 1, 2, 3))):
            places = [*range(len(positional)), *named]
            if not places:
                break
            at = self._random.choice(places)
            if isinstance(at, int):
                positional[at] = self.value(positional[at])
            else:
                named[at] = self.value(named[at])
        if self._random.random() < 0.03:
            positional = positional[:-1] if self._random.random() < 0.5 else [*positional, 1]
        return tuple(positional), named

    def _attributes(self, right: Any) -> Any:
        """The same object with one attribute wrong, or missing."""
        values = {f.name: getattr(right, f.name) for f in fields(right)}
        at = self._random.choice(list(values))
        if self._random.random() < 0.1:
            del values[at]
        else:
            values[at] = self.value(values[at])
        return SimpleNamespace(**values)

    def _items(self, right: tuple[Any, ...] | list[Any]) -> Any:
        items = list(right)
        kind = self._random.randrange(6)
        if kind == 0 and items:
            items.pop(self._random.randrange(len(items)))
        elif kind == 1:
            items += items[:1]
        elif items:
            at = self._random.randrange(len(items))
            items[at] = self.value(items[at])
        return type(right)(items) if self._random.random() < 0.9 else tuple(items)

    def _array(self, right: NDArray[Any]) -> Any:
        pick, kind = self._random.choice, self._random.randrange(12)
        axis = self._random.randrange(right.ndim)
        if kind < 5:
            return self._entries(right)
        if kind == 5:
            return right.astype(pick(("f8", "f4", "i8", "i4", "u1", "u4", "?", "c8", "O", ">i4")))
        if kind == 6:
            return pick((right.reshape(-1), right[None], right.T, right.reshape(-1)[:0]))
        if kind == 7:
            return np.concatenate([right, right], axis)
        if kind == 8:
            keep = self._random.randrange(right.shape[axis] + 1)
            return np.ascontiguousarray(np.take(right, range(keep), axis))
        if kind == 9:
            return right[::-1]
        if kind == 10:
            return np.empty(tuple(pick((0, 1, n)) for n in right.shape), right.dtype)
        odd = np.frombuffer(b"x" + right.tobytes(), np.uint8)[1:]
        return odd.view(right.dtype).reshape(right.shape)

    def _entries(self, right: NDArray[Any]) -> NDArray[Any]:
        changed = right.copy()
        if changed.dtype.kind == "f":
            extremes: tuple[Any, ...] = (np.nan, np.inf, -np.inf, 0.0, -1.0, 1e30)
        else:
            bounds = np.iinfo(changed.dtype)
            near = [e for e in EDGES if bounds.min <= e <= bounds.max]
            extremes = (bounds.min, bounds.max, *near)
        wrong = self._random.choice(extremes)
        if changed.size and self._random.random() < 0.6:
            changed.flat[self._random.randrange(changed.size)] = wrong
        else:
            changed[...] = wrong
        return changed


def _attempt(call: Callable[..., Any], positional: tuple[Any, ...], named: dict[str, Any]) -> bool:
    try:
        call(*positional, **named)
    except Exception:  # whatever it is called, it is not a signal
        return False
    return True


def _fewer_threads(arguments: tuple[Any, ...], at: int) -> tuple[Any, ...]:
    """255 is a right number of them, but slow here."""
    return tuple(
        9 if i == at and type(a) is int and a == 255 else a for i, a in enumerate(arguments)
    )


def _load_wrongly(loading: list[Call], changes: Changes, random: Random) -> bool:
    """The calls that make one model, one of them wrong (or left out), and a forward at the end."""
    first = loading[0]
    ours = [c for c in loading[1:] if c.model is loading[1].model and c.name != "share"]
    wrong = random.randrange(len(ours) + 1)
    arguments = changes.call(first)[0] if wrong == 0 else first.positional
    arguments = _fewer_threads(arguments, 2)
    try:
        model = _native.NativeModel(*arguments)
    except Exception:
        return False
    ended = True
    for i, call in enumerate(ours):
        positional, named = call.positional, call.named
        if i + 1 == wrong:
            if random.random() < 0.2:
                continue
            positional, named = changes.call(call)
        ended = _attempt(getattr(model, call.name), positional, named)
    batch, rows = prefix_batch(random_tokens(5), 16), np.arange(5, dtype=np.int32)
    for level in ((4, 8, 4), (8, 16, 8), (32, 32, 32)):
        _attempt(model.forward, (batch, level, rows), {})
    return ended


def main(seed: int, count: int) -> None:
    """Make `count` wrong calls and print how many were answered all the same."""
    warnings.simplefilter("ignore")  # numpy's own, of casts
    random, changes = Random(seed), Changes(seed)
    loadings, running, checks = [], [], []
    for name, text in MODELS:
        loading, calls = _use(name, text)
        loadings.append(loading)
        running += calls
        forward = next(c for c in calls if c.name == "forward")
        checks.append((forward, forward.model.forward(*forward.positional).tobytes()))
    running += _of_the_module()
    answered = 0
    for i in range(count):
        if random.random() < 0.15:
            answered += _load_wrongly(random.choice(loadings), changes, random)
            continue
        right = random.choice(running)
        positional, named = changes.call(right)
        if right.name in ("read_bandwidth", "linear_rate"):
            positional = _fewer_threads(positional, 0)
        of = right.model if right.model is not None else _native
        answered += _attempt(getattr(of, right.name), positional, named)
        if i % 50 == 0:
            for forward, bits in checks:
                assert forward.model.forward(*forward.positional).tobytes() == bits
    print(f"{answered} of {count} wrong calls were answered")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
