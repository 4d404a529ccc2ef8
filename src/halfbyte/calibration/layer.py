"""One layer of a model as a model of its own, which a runtime can load and run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from halfbyte.config import ModelConfig
from halfbyte.formats.names import expected_tensors
from halfbyte.formats.transforms import Transform
from halfbyte.formats.weights import Dense, Planes, Weights
from halfbyte.quantize.scheme import Layer

F32 = NDArray[np.float32]
_ONE_TOKEN = 32  # vocabulary of a layer alone: nothing is embedded


@dataclass(frozen=True, slots=True)
class OneLayer:
    """`Weights` of a model with this layer only; names are those below `layers.i.`."""

    model: ModelConfig  # with this layer only
    matrices: Mapping[str, Planes | Dense]
    vectors: Mapping[str, F32]

    @property
    def config(self) -> ModelConfig:
        """The model's config with next to no vocabulary."""
        return replace(
            self.model,
            vocab_size=_ONE_TOKEN,
            tied_head=True,
            bos_id=None,
            eos_ids=(),
        )

    @property
    def head_bits(self) -> dict[int, int]:
        """There is no head to speak of."""
        return {4: 4, 8: 8}

    def matrix(self, name: str) -> Planes | Dense:
        """A matrix of the layer: [N, K]."""
        if name == "embed":
            return Dense(np.zeros((_ONE_TOKEN, self.model.hidden_size), dtype=np.float32), "f32")
        return self.matrices[name.removeprefix("layers.0.")]

    def vector(self, name: str) -> F32:
        """A norm or bias of the layer: [n]."""
        if name == "norm.final":
            return np.ones(self.model.hidden_size, dtype=np.float32)
        return self.vectors[name.removeprefix("layers.0.")]


def tensors_of(config: ModelConfig, index: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(name below `layers.i.`, shape) of a layer's tensors, in the order files are written."""
    prefix = f"layers.{index}."
    for name, shape in expected_tensors(config):
        if name.startswith(prefix):
            yield name.removeprefix(prefix), shape


def dense_layer(weights: Weights, index: int) -> Layer:
    """A layer's matrices and vectors in float32."""
    layer: Layer = {}
    for name, shape in tensors_of(weights.config, index):
        full = f"layers.{index}.{name}"
        layer[name] = weights.vector(full) if len(shape) == 1 else f32_matrix(weights, full)
    return layer


def transforms_of(weights: Weights, index: int) -> dict[str, Transform | None]:
    """What is done to the input of each matrix of a layer at run time."""
    return {
        name: weights.matrix(f"layers.{index}.{name}").transform
        for name, shape in tensors_of(weights.config, index)
        if len(shape) == 2
    }


def as_dense(
    config: ModelConfig, layer: Layer, transforms: Mapping[str, Transform | None]
) -> OneLayer:
    """The layer at the `f32` level."""
    matrices = {
        name: Dense(values, "f32", transforms[name])
        for name, values in layer.items()
        if values.ndim == 2
    }
    vectors = {name: values for name, values in layer.items() if values.ndim == 1}
    return OneLayer(config, matrices, vectors)


def f32_matrix(weights: Weights, name: str) -> F32:
    """A dense matrix in float32: [N, K]."""
    matrix = weights.matrix(name)
    assert isinstance(matrix, Dense), "a source is dense"
    if matrix.dtype == "bf16":
        return (matrix.values.astype(np.uint32) << 16).view(np.float32)
    return np.ascontiguousarray(matrix.values, dtype=np.float32)
