"""Quantized Hugging Face models: how their linear layers are packed, read from config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from halfbyte.errors import SourceError
from halfbyte.importers.integer_weights import IntegerWeights

_MAX_NAMES = 4096
FLOATS = ("F16", "BF16", "F32")


@dataclass(frozen=True, slots=True)
class PackedTensor:
    """A tensor that a packed matrix has beside its siblings: its shape, by the dtypes allowed."""

    shapes: Mapping[str, tuple[int, ...]]
    optional: bool = False


def packed(
    dtypes: tuple[str, ...], shape: tuple[int, ...], *, optional: bool = False
) -> PackedTensor:
    """One shape, whatever the dtype."""
    return PackedTensor(dict.fromkeys(dtypes, shape), optional)


class Packing(Protocol):
    """One way to store a quantized [N, K] matrix in several tensors."""

    @property
    def kind(self) -> str:
        """What people call it, e.g. `GPTQ 4-bit`."""

    @property
    def bits(self) -> int:
        """4 or 8."""

    @property
    def group_size(self) -> int | None:
        """Inputs that share a scale; None: all of a row."""

    @property
    def left_alone(self) -> tuple[str, ...]:
        """Parts of the names of modules that were not converted, as the config lists them."""

    @property
    def main(self) -> tuple[str, str]:
        """(suffix, dtype) of the tensor that tells a packed matrix from a dense one."""

    def tensors(self, rows: int, inputs: int) -> Mapping[str, PackedTensor]:
        """By suffix, every tensor an [N, K] matrix has."""

    def read(
        self, arrays: Mapping[str, NDArray[Any]], rows: int, inputs: int, begin: int, end: int
    ) -> IntegerWeights:
        """Rows begin .. end; `arrays` by suffix, floats as float32. Raises SourceError."""


def plane_group(packing: Packing, inputs: set[int]) -> int:
    """Group size of planes for such matrices; groups that are not made of it do not fit any."""
    fitting = [size for size in (128, 64, 32) if all(count % size == 0 for count in inputs)]
    for size in fitting:
        if packing.group_size is None or packing.group_size % size == 0:
            return size
    return fitting[-1] if fitting else 32


def group_count(inputs: int, group_size: int | None) -> int:
    """Scales a row has."""
    return 1 if group_size is None else -(-inputs // group_size)


def checked_groups(
    index: NDArray[Any] | None, inputs: int, group_size: int | None
) -> NDArray[np.int64]:
    """Group of each input: neighbours, or as a g_idx tensor from the file says."""
    count = group_count(inputs, group_size)
    if index is None or (index < 0).all():  # writers fill an unused index with -1
        return np.arange(inputs, dtype=np.int64) // (group_size or inputs)
    if index.min() < 0 or index.max() >= count:
        raise fault("g_idx", f"group {int(index.max())}", f"groups 0 to {count - 1}")
    return index.astype(np.int64)


def one_of(values: Mapping[str, Any], key: str, allowed: tuple[Any, ...], default: Any) -> Any:
    """A setting that must be one of a few; missing or null is the default."""
    value = values.get(key)
    value = default if value is None else value
    if not any(value == item and type(value) is type(item) for item in allowed):
        raise fault(key, repr(value)[:80], " or ".join(repr(item) for item in allowed))
    return value


def group_setting(values: Mapping[str, Any]) -> int | None:
    """`group_size`: a positive number, or -1 for a whole row."""
    value = values.get("group_size")
    if type(value) is not int or not (value == -1 or 0 < value <= 1 << 20):
        raise fault("group_size", repr(value)[:80], "a positive integer, or -1")
    return None if value == -1 else value


def module_names(values: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """A list of names; missing or null: none."""
    names = values.get(key)
    if names is None:
        return ()
    good = isinstance(names, list) and len(names) <= _MAX_NAMES
    if not good or not all(isinstance(name, str) and name for name in names):
        raise fault(key, repr(names)[:80], "a list of names of modules, or null")
    return tuple(names)


def fault(key: str, got: object, expected: object) -> SourceError:
    """A setting or tensor that cannot be read."""
    return SourceError(
        f"quantization_config {key}",
        got=got,
        expected=expected,
        fix="use the model's unquantized weights, or a GGUF file",
    )
