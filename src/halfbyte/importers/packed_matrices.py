"""The quantized matrices of a Hugging Face model: which they are, and their integers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfbyte.config import ModelConfig
from halfbyte.errors import SourceError
from halfbyte.formats.names import expected_matrices, expected_tensors
from halfbyte.formats.tensor_file import TensorFile
from halfbyte.importers.families import hugging_face_name
from halfbyte.importers.integer_weights import IntegerWeights
from halfbyte.importers.packing import FLOATS, Packing, fault
from halfbyte.importers.source import bf16_to_f32

_OUTER = ("embed", "head")
# Written beside a matrix and not needed: what the model did to activations.
_ACTIVATION_SUFFIXES = ("input_scale", "input_zero_point", "output_scale", "output_zero_point")


class PackedMatrices:
    """Checked on opening: those of layers that are packed have tensors of the right shapes."""

    def __init__(
        self, packing: Packing, files: Mapping[str, TensorFile], config: ModelConfig
    ) -> None:
        if config.num_layers > len(files):  # a hostile config may claim millions
            raise _fault(f"{len(files)} tensors", f"those of {config.num_layers} layers")
        self._packing = packing
        self._files = files
        self._shapes = {
            name: shape for name, shape in expected_matrices(config) if self._is_packed(name)
        }
        layers = [name for name, _ in expected_matrices(config) if name not in _OUTER]
        if not any(name in self._shapes for name in layers):
            raise _fault(f"{stem(layers[0])} not quantized", f"{packing.kind} matrices of layers")
        # Whether every layer's matrices are packed; a file may leave some of them alone.
        self.is_whole = all(name in self._shapes for name in layers)
        _check_names(packing.left_alone, config)
        for name, (rows, inputs) in self._shapes.items():
            self._check(name, rows, inputs)

    @property
    def kind(self) -> str:
        """What people call the packing."""
        return self._packing.kind

    def __contains__(self, name: str) -> bool:
        return name in self._shapes

    def tensor_names(self) -> set[str]:
        """Names in the files that belong to packed matrices."""
        suffixes = {*_ACTIVATION_SUFFIXES}
        names = set()
        for name, shape in self._shapes.items():
            for suffix in (*self._packing.tensors(*shape), *suffixes):
                names.add(f"{stem(name)}.{suffix}")
        return names & set(self._files)

    def read(self, name: str, begin: int, end: int) -> IntegerWeights:
        """Rows begin .. end, in our order of hidden units where act-order of `down` is folded."""
        if not self.is_whole:  # then nothing is imported exactly, which is all that folding serves
            return self._stored(name, begin, end)
        part = name.rpartition(".")[2]
        if part in ("gate", "up"):
            order = self._hidden_order(name.rpartition(".")[0] + ".down")
            if order is not None:
                return self._stored(name, 0, self._shapes[name][0]).rows(order[begin:end])
        weights = self._stored(name, begin, end)
        if part == "down":
            order = self._hidden_order(name)
            return weights if order is None else weights.inputs(order)
        return weights

    def _hidden_order(self, down: str) -> NDArray[np.int64] | None:
        """Which hidden unit of the file ours are, so that groups of `down` are neighbours.

        Units of the hidden layer may stand in any order if rows of gate and up and inputs of down
        follow it. None: as they are.
        """
        groups = self._stored(down, 0, 1).groups
        if (np.diff(groups) >= 0).all():
            return None
        order: NDArray[np.int64] = np.argsort(groups, kind="stable")
        return order

    def _stored(self, name: str, begin: int, end: int) -> IntegerWeights:
        rows, inputs = self._shapes[name]
        arrays = {}
        for suffix in self._packing.tensors(rows, inputs):
            tensor = f"{stem(name)}.{suffix}"
            if tensor in self._files:
                arrays[suffix] = _as_read(self._files[tensor], tensor)
        weights = self._packing.read(arrays, rows, inputs, begin, end)
        if not np.isfinite(weights.scales).all():
            fix = "the model file is damaged; download it again"
            raise SourceError(
                f"tensor {stem(name)}", got="NaN or infinite scales", expected="numbers", fix=fix
            )
        return replace(weights, codes=np.ascontiguousarray(weights.codes))

    def _is_packed(self, name: str) -> bool:
        suffix, dtype = self._packing.main
        tensor = f"{stem(name)}.{suffix}"
        return tensor in self._files and self._files[tensor].entries[tensor].dtype == dtype

    def _check(self, name: str, rows: int, inputs: int) -> None:
        for suffix, wanted in self._packing.tensors(rows, inputs).items():
            tensor = f"{stem(name)}.{suffix}"
            if tensor not in self._files:
                if wanted.optional:
                    continue
                raise _fault(f"no tensor {tensor!r}", "one")
            entry = self._files[tensor].entries[tensor]
            if entry.dtype not in wanted.shapes:
                raise _fault(f"{tensor!r} of dtype {entry.dtype}", " or ".join(wanted.shapes))
            if entry.shape != wanted.shapes[entry.dtype]:
                expected = list(wanted.shapes[entry.dtype])
                raise _fault(f"{tensor!r} of shape {list(entry.shape)}", expected)


def _check_names(left_alone: tuple[str, ...], config: ModelConfig) -> None:
    """Names of modules that this model does not have are of another model."""
    if not left_alone:
        return
    modules = ["lm_head", *(stem(name) for name, _ in expected_tensors(config))]
    for part in left_alone:
        if not any(part in module for module in modules):
            raise fault(
                "modules_to_not_convert", repr(part)[:80], "names of modules that the model has"
            )


def stem(name: str) -> str:
    """Checkpoint name of a matrix -> its module in the files: model.layers.3.self_attn.q_proj."""
    return hugging_face_name(name).removesuffix(".weight")


def _as_read(file: TensorFile, tensor: str) -> NDArray[Any]:
    dtype = file.entries[tensor].dtype
    values = file.array(tensor)
    if dtype not in FLOATS:
        return values
    return bf16_to_f32(values) if dtype == "BF16" else values.astype(np.float32)


def _fault(got: object, expected: object) -> SourceError:
    fix = "the model is damaged or of a kind that is not read; use its unquantized weights"
    return SourceError("quantized model", got=got, expected=expected, fix=fix)
