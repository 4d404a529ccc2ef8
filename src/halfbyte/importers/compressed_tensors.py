"""Integer formats of compressed-tensors: `pack-quantized` and `int-quantized`.

    pack-quantized   weight_packed [N, K*bits/32] i32, code + 2^(bits-1) along K, lowest bits first
    int-quantized    weight [N, K] i8
    both             weight_scale [N, groups], [N, 1] or [1]; asymmetric ones also
                     weight_zero_point, i8 [N, groups] or packed along N; act-order ones
                     weight_g_idx [K]

What the model does to activations is not imported: a level says that here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfbyte.importers.integer_weights import IntegerWeights, unpack_words
from halfbyte.importers.packing import (
    FLOATS,
    PackedTensor,
    checked_groups,
    fault,
    group_count,
    group_setting,
    one_of,
    packed,
)

FORMATS = ("pack-quantized", "int-quantized")
_MAX_SCHEMES = 64


@dataclass(frozen=True, slots=True)
class CompressedTensors:
    """See `packing.Packing`."""

    form: str
    bits: int
    group_size: int | None
    symmetric: bool
    per_tensor: bool
    left_alone: tuple[str, ...] = ()  # tensors show what was not converted

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> CompressedTensors:
        """From quantization_config; raises SourceError for what is not read."""
        groups = values.get("config_groups")
        if not isinstance(groups, dict) or not 0 < len(groups) <= _MAX_SCHEMES:
            raise fault("config_groups", type(groups).__name__, "an object of schemes")
        schemes = [scheme for scheme in groups.values() if isinstance(scheme, dict)]
        weights = [scheme.get("weights") for scheme in schemes]
        first = weights[0] if weights else None
        if not isinstance(first, dict) or any(other != first for other in weights):
            raise fault("config_groups", "several schemes of weights", "one for all layers")
        form = values.get("format")
        if form not in FORMATS:  # newer files say it in the scheme
            form = schemes[0].get("format") or form
        form = str(one_of({"format": form}, "format", FORMATS, None))
        if values.get("transform_config"):
            raise fault("transform_config", "rotations at run time", "none")
        sparsity = values.get("sparsity_config") or {}
        if not isinstance(sparsity, dict) or sparsity.get("format", "dense") != "dense":
            raise fault("sparsity_config", repr(sparsity)[:80], "dense weights")
        one_of(first, "type", ("int",), "int")
        one_of(first, "dynamic", (False,), False)
        bits = one_of(first, "num_bits", (4, 8), None)
        if form == "int-quantized" and bits != 8:
            raise fault("num_bits", bits, "8 where weights are int-quantized")
        strategy = one_of(first, "strategy", ("group", "channel", "tensor"), None)
        symmetric = one_of(first, "symmetric", (True, False), True)
        if strategy == "tensor" and not symmetric:
            raise fault("strategy", "tensor, not symmetric", "group or channel where asymmetric")
        size = group_setting(first) if strategy == "group" else None
        return cls(form, bits, size, symmetric, strategy == "tensor")

    @property
    def kind(self) -> str:
        """What people call it."""
        return f"compressed-tensors {self.form} {self.bits}-bit"

    @property
    def main(self) -> tuple[str, str]:
        """(suffix, dtype) of the codes."""
        return ("weight", "I8") if self.form == "int-quantized" else ("weight_packed", "I32")

    def tensors(self, rows: int, inputs: int) -> Mapping[str, PackedTensor]:
        """By suffix; older writers did not pack the zero points."""
        suffix, dtype = self.main
        count = group_count(inputs, self.group_size)
        width = inputs if dtype == "I8" else -(-inputs * self.bits // 32)
        found = {
            suffix: packed((dtype,), (rows, width)),
            "weight_scale": packed(FLOATS, (1,) if self.per_tensor else (rows, count)),
            "weight_g_idx": packed(("I32", "I64"), (inputs,), optional=True),
        }
        if dtype == "I32":
            found["weight_shape"] = packed(("I32", "I64"), (2,), optional=True)
        if not self.symmetric:
            shapes = {"I8": (rows, count)}
            if dtype == "I32":
                shapes["I32"] = (-(-rows * self.bits // 32), count)
            found["weight_zero_point"] = PackedTensor(shapes)
        return found

    def read(
        self, arrays: Mapping[str, NDArray[Any]], rows: int, inputs: int, begin: int, end: int
    ) -> IntegerWeights:
        """Rows begin .. end."""
        shape = arrays.get("weight_shape")
        if shape is not None and shape.tolist() != [rows, inputs]:
            raise fault("weight_shape", shape.tolist(), [rows, inputs])
        middle, count = 1 << (self.bits - 1), group_count(inputs, self.group_size)
        if self.form == "int-quantized":
            codes = arrays["weight"][begin:end].view(np.uint8) ^ np.uint8(128)
        else:
            codes = unpack_words(arrays["weight_packed"][begin:end], self.bits)[:, :inputs]
        zeros = np.full((end - begin, count), middle, dtype=np.int16)
        if not self.symmetric:
            zeros = self._zeros(arrays["weight_zero_point"])[begin:end]
        scales = np.broadcast_to(arrays["weight_scale"], (rows, count))[begin:end]
        groups = checked_groups(arrays.get("weight_g_idx"), inputs, self.group_size)
        return IntegerWeights(codes, zeros, scales, groups, self.bits)

    def _zeros(self, stored: NDArray[Any]) -> NDArray[np.int16]:
        """[N, groups], counted from 0 like the codes."""
        if stored.dtype == np.int8:
            return stored.astype(np.int16) + np.int16(1 << (self.bits - 1))
        return unpack_words(stored.T, self.bits).T.astype(np.int16)
