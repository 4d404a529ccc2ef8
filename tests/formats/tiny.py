"""A small random checkpoint on disk, with one matrix of each kind of planes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from halfbyte.config import ModelConfig, uniform_model
from halfbyte.formats.names import expected_tensors, site_of
from halfbyte.formats.weights import Dense, Planes
from halfbyte.formats.writer import CheckpointWriter

CONFIG = uniform_model(
    family="llama",
    vocab_size=64,
    hidden_size=64,
    intermediate_size=96,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    max_context=128,
    norm_eps=1e-5,
    eos_ids=(2,),
)


def random_planes(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    group: int = 32,
    *,
    lo: bool = True,
    offset: bool = False,
) -> Planes:
    rows, inputs = shape
    return Planes(
        rng.integers(0, 256, (rows, inputs // 2), dtype=np.uint8),
        rng.integers(0, 256, (rows, inputs // 2), dtype=np.uint8) if lo else None,
        rng.normal(size=(rows, inputs // group)).astype(np.float16),
        rng.normal(size=(rows, inputs // group)).astype(np.float32) if offset else None,
        group,
    )


def with_unit(rng: np.random.Generator, planes: Planes, *, pairs: bool = False) -> Planes:
    """Integer scales, and offsets where there are some; `pairs`: `lo` of two bits."""
    rows, groups = planes.scale.shape
    integers = rng.integers(-127, 128, (2, rows, groups), dtype=np.int8)
    lo = planes.lo
    return replace(
        planes,
        lo=rng.integers(0, 256, (rows, planes.hi.shape[1] // 2), dtype=np.uint8) if pairs else lo,
        scale=integers[0],
        offset=None if planes.offset is None else integers[1],
        unit=rng.uniform(1e-4, 1e-3, rows).astype(np.float32),
    )


def write_checkpoint(
    dest: Path,
    config: ModelConfig = CONFIG,
    *,
    dense: str = "",
    seed: int = 0,
    wide: Mapping[str, int] | None = None,
    units: bool = False,
) -> Path:
    """`dense`: f32, f16 or bf16 instead of planes; `wide`: 4-bit layers with wide groups; `units`:
    integer scales, and `lo` of two bits for the embedding and the head.
    """
    rng = np.random.default_rng(seed)
    with CheckpointWriter(dest) as writer:
        for name, shape in expected_tensors(config):
            if len(shape) == 1:
                writer.add_vector(name, rng.normal(size=shape).astype(np.float32))
            elif dense:
                writer.add_matrix(name, random_dense(rng, shape, dense))
            else:
                last = name.rpartition(".")[2]
                matrix = random_planes(rng, shape, lo=last != "gate", offset=last == "down")
                place = site_of(name)
                if wide is not None and place is not None:
                    matrix = with_wide(random_planes(rng, shape), wide.get(place[1], 0))
                if units:
                    matrix = with_unit(rng, matrix, pairs=place is None)
                writer.add_matrix(name, matrix)
        return writer.finish(
            config,
            group_size=None if dense else 32,
            head_bits={4: 4, 8: 8},
            source={"kind": "random", "seed": seed},
            tokenizer_info={"bos": 1, "add_bos": False, "eos_ids": [2]},
            chat_template="{{ messages }}",
        )


def with_wide(planes: Planes, count: int) -> Planes:
    """`lo` of the last groups alone."""
    assert planes.lo is not None
    lo = planes.lo[:, -count * planes.group_size // 2 :].copy() if count else None
    return replace(planes, lo=lo, wide_groups=count)


def random_dense(rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> Dense:
    values = rng.normal(size=shape).astype(np.float32)
    if kind == "bf16":
        return Dense((values.view(np.uint32) >> 16).astype(np.uint16), kind)
    return Dense(values.astype(np.float16) if kind == "f16" else values, kind)
