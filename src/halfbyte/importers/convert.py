"""Turn a model source into a checkpoint: exactly where its grid allows, else by round to nearest.

| source                    | planes not given | 4               | 8                         |
|---------------------------|------------------|-----------------|---------------------------|
| layers all Q4_0, Q4_1, TQ | as 4             | exact, group 32 | every matrix re-quantized |
| layers all Q8_0, IQ4_NL,  | as 8             | re-quantized    | exact, group 32           |
|   MXFP4                   |                  |                 |                           |
| layers all GPTQ, AWQ or   | as 4             | exact, the      | every matrix re-quantized |
|   other 4-bit integers    |                  |   file's groups |                           |
| ... 8-bit integers        | as 8             | re-quantized    | exact, the file's groups  |
| anything else             | as 8             | re-quantized    | re-quantized              |

A 4-plane checkpoint keeps 8 bits for the embedding and the head, where 4 cost the most. A 4-bit
file re-quantized to 8 bits leaves its own grid on purpose: on it, `lo` would be empty and draft and
target would be the same model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfbyte.checks import check_one_of
from halfbyte.config import GROUP_SIZES, ModelConfig
from halfbyte.errors import ArgumentError, SourceError
from halfbyte.formats.names import expected_matrices, expected_tensors, product_of
from halfbyte.formats.weights import Planes
from halfbyte.formats.writer import CheckpointWriter
from halfbyte.importers.gguf_blocks import EXACT_GROUP
from halfbyte.importers.gguf_source import GgufSource
from halfbyte.importers.huggingface import HuggingFaceSource
from halfbyte.importers.source import Source
from halfbyte.quantize.rtn import quantize
from halfbyte.quantize.scales import DEFAULT_SCALES, ScaleForm
from halfbyte.quantize.scheme import Grid

Progress = Callable[[str, int, int], None]  # tensor name, weights done, weights in all

FOUR_BIT_NOTE = (
    "The source file is already 4-bit. Its weights were re-quantized to 8-bit nested codes off"
    " the source grid, so that the 4-bit draft and the 8-bit target differ; the 8-bit target is"
    " as good as the 4-bit source, not better."
)
QUANTIZED_NOTE = (
    "The source file is itself quantized; it was dequantized and quantized again, and the result is"
    " at best as good as the source file."
)
_BLOCK_WEIGHTS = 1 << 22  # 16 MB of float32 at a time, whatever the matrix
_OUTER = ("embed", "head")
_FLOAT = ("F32", "F16", "BF16")


def open_source(path: Path) -> Source:
    """A GGUF file or a Hugging Face directory. Raises SourceError."""
    if path.is_dir():
        if not (path / "config.json").is_file():
            fix = "name a GGUF file, a Hugging Face model directory or a checkpoint"
            raise SourceError(
                f"directory {path}", got="no config.json", expected="a model", fix=fix
            )
        return HuggingFaceSource(path)
    if not path.exists():
        fix = "check the path (or name a hub id as owner/name)"
        raise SourceError(
            f"model {path}",
            got="no such file",
            expected="a GGUF file or a model directory",
            fix=fix,
        )
    return GgufSource(path)


def convert(
    src: Source | Path | str,
    dest: Path | str,
    planes: int | None = None,
    group: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write a checkpoint of `src` to the new directory `dest`; an error leaves nothing there."""
    source = open_source(Path(src)) if isinstance(src, Path | str) else src
    planes, group, exact = _plan(source, planes, group)
    job = _Job(source, planes, group, exact, progress)
    with np.errstate(all="ignore"), CheckpointWriter(Path(dest)) as writer:
        for name, shape in expected_tensors(source.config):
            if len(shape) == 1:
                writer.add_vector(name, source.vector(name))
            else:
                writer.add_matrix(name, job.matrix(name))
        job.tell("done")
        return writer.finish(
            source.config,
            group_size=group,
            head_bits={4: 8, 8: 8} if planes == 4 else {4: 4, 8: 8},
            source=_provenance(source, planes, job.requantized),
            tokenizer_json=source.tokenizer_json,
            tokenizer_info=source.tokenizer_info,
            chat_template=source.chat_template,
            named_templates=source.named_templates,
        )


def _plan(source: Source, planes: int | None, group: int | None) -> tuple[int, int, bool]:
    """(planes, group size, whether to import exactly)."""
    if planes is not None:
        check_one_of("planes", planes, (4, 8), "use one of those")
    if group is not None:
        check_one_of("group", group, GROUP_SIZES, "use one of those")
    natural, natural_group = source.natural or (None, EXACT_GROUP)
    chosen = planes or natural or 8
    exact = chosen == natural
    if exact and group not in (None, natural_group):
        if planes is None:
            fix = f"leave the group out, or give --planes {natural} to re-quantize"
            raise ArgumentError(
                "group", got=group, expected=f"{natural_group} for an exact import", fix=fix
            )
        exact = False
    size = group or (natural_group if exact else EXACT_GROUP)
    check_group(source.config, size)
    return chosen, size, exact


def check_group(config: ModelConfig, group: int) -> None:
    """Raise ArgumentError unless the group size divides the inputs of every matrix."""
    for name, (_, inputs) in expected_matrices(config):
        if inputs % group:
            sizes = {k for _, (_, k) in expected_matrices(config)}
            fitting = [size for size in GROUP_SIZES if all(k % size == 0 for k in sizes)]
            fix = f"use --group {fitting[-1]}" if fitting else "this model's sizes fit no group"
            raise ArgumentError(
                "group",
                got=f"{group} for {name} of {inputs} inputs",
                expected="a divisor of them",
                fix=fix,
            )


class _Job:
    """The matrices of one conversion, in the order of files; those of a product are made at once.

    A product runs as one matrix, so its parts must have one kind of scales: where a part is
    imported exactly, with the scales of its source, the others get f16 scales as well.
    """

    def __init__(
        self, source: Source, planes: int, group: int, exact: bool, progress: Progress | None
    ) -> None:
        self.requantized: list[str] = []
        self._source = source
        self._planes = planes
        self._group = group
        self._exact = exact
        self._progress = progress
        self._shapes = dict(expected_matrices(source.config))
        self._made: dict[str, Planes] = {}
        self._done = 0

    def matrix(self, name: str) -> Planes:
        """The planes of a matrix."""
        if name not in self._made:
            self._make(tuple(part for part in product_of(name) if part in self._shapes))
        return self._made.pop(name)

    def tell(self, name: str) -> None:
        """Progress: what comes next, and the weights that are done."""
        if self._progress:
            total = sum(rows * inputs for rows, inputs in self._shapes.values())
            self._progress(name, self._done, total)

    def _make(self, names: tuple[str, ...]) -> None:
        for name in names if self._exact else ():
            self.tell(name)
            planes = self._source.exact_planes(name)
            if planes is not None:
                self._keep(name, planes)
        scales: ScaleForm = "f16" if self._made else DEFAULT_SCALES
        for name in names:
            if name not in self._made:
                self.tell(name)
                self.requantized.append(name)
                self._keep(name, self._requantize(name, scales))

    def _keep(self, name: str, planes: Planes) -> None:
        self._made[name] = planes
        self._done += math.prod(self._shapes[name])

    def _requantize(self, name: str, scales: ScaleForm) -> Planes:
        rows, inputs = shape = self._shapes[name]
        step = max(1, _BLOCK_WEIGHTS // inputs)

        def blocks() -> Iterator[NDArray[np.float32]]:
            for begin in range(0, rows, step):
                yield self._source.rows(name, begin, min(begin + step, rows))

        planes = 8 if name in _OUTER else self._planes
        return quantize(name, blocks(), shape, Grid(planes, self._group, scales=scales))


def _provenance(source: Source, planes: int, requantized: list[str]) -> dict[str, Any]:
    """What `source` in halfbyte.json says."""
    names = [name for name, _ in expected_matrices(source.config)]
    if not requantized:
        method = "exact"
    elif len(requantized) == len(names):
        method = "re-quantized (round to nearest)"
    else:
        method = f"exact, except re-quantized (round to nearest): {', '.join(requantized[:4])}"
    described = {**source.description, "planes": planes, "exact": not requantized, "method": method}
    if planes == 8 and source.natural is not None and source.natural[0] == 4:
        described["note"] = FOUR_BIT_NOTE
    elif any(source.type_of(name) not in _FLOAT for name in requantized):
        described["note"] = QUANTIZED_NOTE
    return described
