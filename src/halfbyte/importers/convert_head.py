"""A draft head -> our format: quantized to nested planes by round to nearest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfbyte.checks import check_one_of
from halfbyte.config import GROUP_SIZES
from halfbyte.errors import ArgumentError
from halfbyte.formats.checkpoint import open_files
from halfbyte.formats.draft_head import (
    HEAD_MANIFEST,
    HeadManifest,
    HeadWeights,
    head_tensors,
    read_head_manifest,
)
from halfbyte.formats.weights import Dense
from halfbyte.formats.writer import CheckpointWriter
from halfbyte.importers.source import bf16_to_f32
from halfbyte.quantize.rtn import quantize
from halfbyte.quantize.scheme import Grid


def write_head(
    weights: HeadWeights,
    dest: Path,
    *,
    planes: int = 8,
    group: int = 32,
    source: Mapping[str, Any],
) -> Path:
    """Write `weights` to the new directory `dest`; an error leaves nothing there."""
    _check(weights, planes, group)
    config = weights.config
    with CheckpointWriter(dest) as writer:
        for name, shape in head_tensors(config):
            if len(shape) == 1:
                writer.add_vector(name, weights.vector(name))
                continue
            matrix = weights.matrix(name)
            if isinstance(matrix, Dense):
                rows, inputs = shape
                matrix = quantize(name, [_widened(matrix)], (rows, inputs), Grid(planes, group))
            writer.add_matrix(name, matrix)
        if weights.draft_ids is not None:
            writer.add_ids("draft_ids", weights.draft_ids)

        def manifest(files: dict[str, int]) -> str:
            return HeadManifest(config, group, files, dict(source)).to_json()

        return writer.publish(HEAD_MANIFEST, manifest, _open_files)


def _open_files(path: Path) -> None:
    open_files(path, read_head_manifest(path).files)


def _check(weights: HeadWeights, planes: int, group: int) -> None:
    check_one_of("planes", planes, (4, 8), "use one of those")
    check_one_of("group", group, GROUP_SIZES, "use one of those")
    inputs = {shape[1] for _, shape in head_tensors(weights.config) if len(shape) == 2}
    inputs.add(weights.config.model.hidden_size)
    fitting = [size for size in GROUP_SIZES if all(k % size == 0 for k in inputs)]
    if group not in fitting:
        raise ArgumentError(
            "group",
            got=f"{group} for matrices of {sorted(inputs)} inputs",
            expected="a divisor of them",
            fix=f"use --group {fitting[-1]}" if fitting else "this head's sizes fit no group",
        )


def _widened(matrix: Dense) -> NDArray[np.float32]:
    if matrix.dtype == "bf16":
        return bf16_to_f32(matrix.values)  # type: ignore[arg-type]
    return matrix.values.astype(np.float32)
