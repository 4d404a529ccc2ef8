"""Quantize a whole model: layer by layer, each calibrated on what the quantized ones before made.

For each layer: fold it, look at the inputs of its linears at the `f32` level, round its matrices,
then run the rounded layer at the target level over the calibration text, which gives what the next
layer reads (GPTQ, arXiv 2210.17323, section 4). One dense layer, its statistics and the residual
stream of the text are all that is held.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfbyte.calibration.layer import (
    OneLayer,
    as_dense,
    dense_layer,
    f32_matrix,
    tensors_of,
    transforms_of,
)
from halfbyte.calibration.moments import Moments
from halfbyte.calibration.passes import LayerPasses
from halfbyte.calibration.work import WorkDirectory
from halfbyte.config import Level
from halfbyte.errors import HalfbyteError
from halfbyte.formats.names import expected_matrices
from halfbyte.formats.transforms import Transform
from halfbyte.formats.weights import Planes, Weights
from halfbyte.formats.writer import CheckpointWriter
from halfbyte.importers.source import Source
from halfbyte.quantize.assemble import stack_rows
from halfbyte.quantize.rtn import RoundToNearest
from halfbyte.quantize.scheme import (
    HEAD_INPUT,
    Grid,
    InputDetail,
    InputStatistics,
    Layer,
    RoundRows,
    Scheme,
    input_of,
    row_blocks,
)
from halfbyte.runtime.norm import rms_norm

F32 = NDArray[np.float32]
Progress = Callable[[str, int, int], None]  # tensor name, weights done, weights in all


@dataclass(frozen=True, slots=True)
class Job:
    """What to make of which source."""

    source: Source
    scheme: Scheme
    grid: Grid
    notes: Mapping[str, Any]  # what halfbyte.json says about where the weights come from

    @property
    def head_grid(self) -> Grid:
        """Of the output head, where 4 bits cost the most: 8, or 6 where bits are counted."""
        six = self.grid.planes == 4 and self.grid.scales != "f16"
        return replace(self.grid, planes=8, lo_bits=2 if six else 4)

    @property
    def level(self) -> Level:
        """The target level: what later layers are calibrated on."""
        return Level(self.grid.planes, 16)


def run_job(
    job: Job,
    dest: Path,
    work: WorkDirectory,
    tokens: NDArray[np.int32] | None,
    passes: LayerPasses | None,
    progress: Progress,
) -> Path:
    """Write the checkpoint `dest`, taking up what `work` has. `tokens` [S, L], where needed."""
    weights: Weights = job.source
    if job.scheme.rewrite is not None:
        weights = job.scheme.rewrite(weights)
    with CheckpointWriter(dest, keep_in=work.checkpoint) as writer:
        run = _Run(job, weights, writer, work, passes, progress)
        residual = run.layers(tokens)
        run.outer(residual)
        path = writer.finish(
            weights.config,
            group_size=job.grid.group_size,
            head_bits={4: 8, 8: 8} if job.grid.planes == 4 else {4: 4, 8: 8},
            source=job.notes,
            tokenizer_json=job.source.tokenizer_json,
            tokenizer_info=job.source.tokenizer_info,
            chat_template=job.source.chat_template,
            named_templates=job.source.named_templates,
        )
    work.remove()
    return path


class _Run:
    def __init__(
        self,
        job: Job,
        weights: Weights,
        writer: CheckpointWriter,
        work: WorkDirectory,
        passes: LayerPasses | None,
        progress: Progress,
    ) -> None:
        self._job, self._weights, self._writer = job, weights, writer
        self._work, self._passes, self._progress = work, passes, progress
        self._total = sum(n * k for _, (n, k) in expected_matrices(weights.config))
        self._done = 0
        self._wide: Mapping[str, int] = {}
        if (reorder := job.scheme.reorder) is not None:
            self._wide = reorder.wide_groups(weights.config, job.grid.group_size)

    def layers(self, tokens: NDArray[np.int32] | None) -> F32 | None:
        """Every layer that is not there yet; returns the residual stream after the last."""
        kept = self._work.residual()
        first, residual = kept if kept is not None else (0, self._embed(tokens))
        for index in range(self._weights.config.num_layers):
            done = self._writer.has(f"layers.{index}.") and (residual is None or index < first)
            if not done:
                self._writer.drop(f"layers.{index}.")
                self._layer(index, residual)
                if residual is not None:
                    self._work.keep_residual(index + 1, residual)
            self._done += self._size(index)
        return residual

    def outer(self, residual: F32 | None) -> None:
        """Final norm, head and embedding."""
        config = self._weights.config
        if not self._writer.has("norm.final"):
            self._writer.add_vector("norm.final", self._weights.vector("norm.final"))
            self._writer.flush()
        head = "embed" if config.tied_head else "head"
        for name in ("embed",) if config.tied_head else ("embed", "head"):
            if not self._writer.has(name):
                self._progress(name, self._done, self._total)
                inputs = self._head_inputs(residual) if name == head else None
                grid = self._job.head_grid if name == head else self._job.grid
                self._writer.add_matrix(name, self._outer_matrix(name, inputs, grid))
                self._writer.flush()
            self._done += config.vocab_size * config.hidden_size
        self._progress("done", self._total, self._total)

    def _embed(self, tokens: NDArray[np.int32] | None) -> F32 | None:
        """The residual stream that the first layer reads: [S, L, hidden]."""
        if tokens is None:
            return None
        multiplier = np.float32(self._weights.config.embedding_multiplier)
        return f32_matrix(self._weights, "embed")[tokens] * multiplier

    def _size(self, index: int) -> int:
        shapes = (s for _, s in tensors_of(self._weights.config, index) if len(s) == 2)
        return sum(n * k for n, k in shapes)

    def _layer(self, index: int, residual: F32 | None) -> None:
        self._progress(f"layers.{index}", self._done, self._total)
        config = self._weights.config
        layer, inputs, transforms = self._prepare(index, residual)
        rounders: dict[str, RoundRows] = {}
        vectors = {name: values for name, values in layer.items() if values.ndim == 1}
        planes: dict[str, Planes] = {}
        for name, _ in tensors_of(config, index):
            full = f"layers.{index}.{name}"
            if name in vectors:
                self._writer.add_vector(full, vectors[name])
                continue
            read = input_of(name)
            if read not in rounders:
                grid = replace(self._job.grid, wide_groups=self._wide.get(read, 0))
                rounders[read] = self._fit(full, inputs.get(read), grid)
            rounded = rounders[read](full, layer[name])
            planes[name] = replace(rounded, transform=transforms[name])
            self._writer.add_matrix(full, planes[name])
        self._writer.flush()
        if residual is not None and self._passes is not None:
            self._passes.advance(
                OneLayer(config.only(index), planes, vectors), residual, self._job.level
            )
            _check_finite(index, residual)

    def _prepare(
        self, index: int, residual: F32 | None
    ) -> tuple[Layer, Mapping[str, InputStatistics], Mapping[str, Transform | None]]:
        """The dense layer as it is to be rounded, what its linears read, and through what."""
        config, scheme = self._weights.config.only(index), self._job.scheme
        transforms = transforms_of(self._weights, index)
        layer = dense_layer(self._weights, index)
        _check_weights(index, layer)
        if residual is None or self._passes is None:
            return layer, {}, transforms
        wanted = scheme.rounder.detail
        if scheme.reorder is not None:
            wanted = max(wanted, InputDetail.CHANNELS)
        if scheme.fold is not None:
            dense = as_dense(config, layer, transforms)
            seen = self._passes.observe(dense, residual, scheme.fold.detail)
            layer = scheme.fold(config, layer, seen, self._job.grid)
        if wanted == InputDetail.NONE:
            return layer, {}, transforms
        inputs = self._passes.observe(as_dense(config, layer, transforms), residual, wanted)
        if scheme.reorder is None:
            return layer, inputs, transforms
        group = self._job.grid.group_size
        wide_inputs = {site: count * group for site, count in self._wide.items()}
        sorted_ = scheme.reorder(layer, inputs, wide_inputs)
        gathers = {name: sorted_.gathers.get(input_of(name)) for name in transforms}
        if any(gathers[name] and t for name, t in transforms.items()):
            raise ValueError(f"scheme {scheme.name} both rotates and reorders an input")
        both = {name: gathers[name] or t for name, t in transforms.items()}
        return sorted_.layer, sorted_.inputs, both

    def _fit(self, name: str, inputs: InputStatistics | None, grid: Grid) -> RoundRows:
        try:
            return self._job.scheme.rounder.fit(inputs, grid)
        except HalfbyteError as error:
            what = f"{error.what}, matrix {name}"
            raise HalfbyteError(
                what, got=error.got, expected=error.expected, fix=error.fix
            ) from error

    def _head_inputs(self, residual: F32 | None) -> InputStatistics | None:
        wanted = self._job.scheme.rounder.detail
        if residual is None or wanted == InputDetail.NONE:
            return None
        moments = Moments(wanted)
        norm, eps = self._weights.vector("norm.final"), self._weights.config.norm_eps
        for rows in residual:
            moments.add(rms_norm(rows, norm, eps))
        return moments.result()

    def _outer_matrix(self, name: str, inputs: InputStatistics | None, grid: Grid) -> Planes:
        values = f32_matrix(self._weights, name)
        if inputs is None:
            round_rows = RoundToNearest().fit(None, grid)
        else:
            round_rows = self._fit(HEAD_INPUT, inputs, grid)
        blocks = [round_rows(name, values[a:b]) for a, b in row_blocks(*values.shape)]
        return stack_rows(blocks)


def _check_weights(index: int, layer: Layer) -> None:
    for name, values in layer.items():
        if values.size and not (np.isfinite(values.min()) and np.isfinite(values.max())):
            raise HalfbyteError(
                f"tensor layers.{index}.{name}",
                got="NaN or infinity",
                expected="finite weights",
                fix="the model file is damaged; download it again",
            )


def _check_finite(index: int, residual: F32) -> None:
    if not np.isfinite(residual).all():
        raise HalfbyteError(
            f"calibration of layer {index}",
            got="NaN or infinite outputs",
            expected="finite numbers",
            fix="check the model's weights; they may be damaged",
        )
