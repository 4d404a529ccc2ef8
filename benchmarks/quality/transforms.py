"""What run-time transforms cost, a token and a prompt: `results/quality/transforms.jsonl`.

    python -m benchmarks.quality.transforms --threads 2

Layers of a model's shapes with random weights run alone (no vocabulary to speak of), so that the
difference is that of the transforms. Levels and kinds take turns, forward by forward; a row's
spread is over its forwards.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure.arguments import names, positive
from benchmarks.measure.occasion import Occasion, Subject
from benchmarks.measure.rows import RESULTS, keep
from halfbyte.config import Level, ModelConfig, uniform_model
from halfbyte.formats.names import expected_matrices, site_inputs, site_of
from halfbyte.formats.transforms import Gather, Transform
from halfbyte.formats.weights import Planes
from halfbyte.quantize.rotations import across_heads, along_row
from halfbyte.runtime.native import NativeRuntime
from halfbyte.runtime.protocol import Batch

WARM_UP = 3
KINDS = ("plain", "quarot", "atom")


@dataclass(frozen=True, slots=True)
class Shape:
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    layers: int


SHAPES = {
    "smollm2-135m": Shape(576, 1536, 9, 3, 64, 30),
    "qwen2.5-1.5b": Shape(1536, 8960, 12, 2, 128, 28),
    "llama-3-8b": Shape(4096, 14336, 32, 8, 128, 32),
}


@dataclass(frozen=True, slots=True)
class RandomLayers:
    """Implements `Weights`: some layers of a shape, `kind` plain, quarot or atom."""

    config: ModelConfig
    kind: str

    @property
    def head_bits(self) -> dict[int, int]:
        return {4: 8, 8: 8}

    def matrix(self, name: str) -> Planes:
        rows, inputs = dict(expected_matrices(self.config))[name]
        random = np.random.default_rng(rows)
        hi, lo = (
            np.frombuffer(random.bytes(rows * inputs // 2), dtype=np.uint8).reshape(rows, -1)
            for _ in range(2)
        )
        scale = np.full((rows, inputs // 32), 0.002, dtype=np.float16)
        place = site_of(name)
        if place is None:
            return Planes(hi, lo, scale, None, 32)
        wide = 4 if self.kind == "atom" else 0
        low = lo[:, -wide * 16 :].copy() if wide else None
        return Planes(hi, low, scale, None, 32, wide, self._transform(place[1]))

    def vector(self, name: str) -> NDArray[np.float32]:
        return np.ones(self.config.hidden_size, dtype=np.float32)

    def _transform(self, site: str) -> Transform | None:
        c, inputs = self.config, site_inputs(self.config)[site]
        if self.kind == "quarot" and site == "attn.o":
            return across_heads(c.attention.num_heads, c.attention.head_dim)
        if self.kind == "quarot" and site == "mlp.down":
            return along_row(inputs)
        if self.kind == "atom" and site != "mlp.down":
            return Gather(np.random.default_rng(0).permutation(inputs).astype(np.int32))
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--threads", type=positive, default=2)
    parser.add_argument("--layers", type=positive, default=4, help="layers timed, of each shape")
    parser.add_argument("--levels", type=names, default=["w4a4", "w4a8", "w4a16"])
    parser.add_argument("--trials", type=positive, default=30, help="forwards timed, of each kind")
    parser.add_argument("--shapes", type=names, default=list(SHAPES))
    parser.add_argument("--results", type=Path, default=RESULTS / "quality" / "transforms.jsonl")
    arguments = parser.parse_args()
    occasion = Occasion.begin("", arguments.threads)
    for name in arguments.shapes:
        runtimes = {
            kind: NativeRuntime(
                RandomLayers(_config(SHAPES[name], arguments.layers), kind),
                threads=arguments.threads,
                num_tokens=512,
            )
            for kind in KINDS
        }
        scale = SHAPES[name].layers / arguments.layers
        levels = [Level.parse(level) for level in arguments.levels]
        for count in (1, 4, 128):
            times = {
                each: [scale * taken for taken in found]
                for each, found in _alternate(runtimes, levels, count, arguments.trials).items()
            }
            for level in levels:
                plain = statistics.median(times[level, "plain"])
                found = [
                    replace(occasion, model=name).row(
                        Subject.ours(kind, 0, str(level)),
                        f"layers {count}",
                        "ms",
                        times[level, kind],
                        details={"over_plain": statistics.median(times[level, kind]) / plain - 1},
                    )
                    for kind in KINDS
                ]
                keep(arguments.results, found)
                cells = [f"{r.format} {r.spread.median:.3f} ms" for r in found]
                print(f"{name:14} {level!s:6} {count:4} rows  {'  '.join(cells)}", flush=True)


def _config(shape: Shape, layers: int) -> ModelConfig:
    base = uniform_model(
        family="llama",
        vocab_size=64,
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_layers=layers,
        num_heads=shape.heads,
        num_kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_context=4096,
        norm_eps=1e-5,
    )
    return replace(base, tied_head=True)


def _alternate(
    runtimes: dict[str, NativeRuntime], levels: Sequence[Level], rows: int, trials: int
) -> dict[tuple[Level, str], list[float]]:
    """Milliseconds of every forward of the layers timed, by level and kind.

    Levels and kinds take turns: what memory gives drifts by a third within seconds.
    """
    batch = Batch(
        np.zeros(rows, np.int32),
        np.array([0, rows], np.int32),
        np.array([0], np.int32),
        np.arange(8, dtype=np.int32)[None],
    )
    last = np.array([rows - 1], np.int32)
    times: dict[tuple[Level, str], list[float]] = {(v, kind): [] for v in levels for kind in KINDS}
    for trial in range(WARM_UP + trials):
        for level, kind in times:
            begin = perf_counter()
            runtimes[kind].forward(batch, level, last)
            if trial >= WARM_UP:
                times[level, kind].append((perf_counter() - begin) * 1e3)
    return times


if __name__ == "__main__":
    main()
