"""AWQ as AutoAWQ's `gemm` version writes it.

qweight [K, N/8] i32   outputs packed along N, in the order 0 2 4 6 1 3 5 7 from the lowest bits
qzeros  [K/G, N/8] i32   in the same order, as they are
scales  [K/G, N]
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
    group_count,
    group_setting,
    module_names,
    one_of,
    packed,
)

_NIBBLE_OF_OUTPUT = (0, 4, 1, 5, 2, 6, 3, 7)  # where output i of eight stands in its word


@dataclass(frozen=True, slots=True)
class Awq:
    """See `packing.Packing`."""

    group_size: int | None
    left_alone: tuple[str, ...] = ()
    bits: int = 4
    main: tuple[str, str] = ("qweight", "I32")

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Awq:
        """From quantization_config; raises SourceError for what is not read."""
        one_of(values, "bits", (4,), 4)
        version = values.get("version")
        name = version.lower() if isinstance(version, str) else version
        one_of({"version": name}, "version", ("gemm",), "gemm")
        one_of(values, "zero_point", (True,), True)
        return cls(group_setting(values), module_names(values, "modules_to_not_convert"))

    @property
    def kind(self) -> str:
        """What people call it."""
        return "AWQ 4-bit"

    def tensors(self, rows: int, inputs: int) -> Mapping[str, PackedTensor]:
        """By suffix."""
        count = group_count(inputs, self.group_size)
        return {
            "qweight": packed(("I32",), (inputs, -(-rows // 8))),
            "qzeros": packed(("I32",), (count, -(-rows // 8))),
            "scales": packed(FLOATS, (count, rows)),
        }

    def read(
        self, arrays: Mapping[str, NDArray[Any]], rows: int, inputs: int, begin: int, end: int
    ) -> IntegerWeights:
        """Rows begin .. end."""
        words = slice(begin // 8, -(-end // 8))
        part = slice(begin - 8 * words.start, end - 8 * words.start)
        return IntegerWeights(
            codes=_outputs(arrays["qweight"][:, words])[part],
            zeros=_outputs(arrays["qzeros"][:, words])[part].astype(np.int16),
            scales=np.ascontiguousarray(arrays["scales"][:, begin:end].T),
            groups=checked_groups(None, inputs, self.group_size),
            bits=4,
        )


def _outputs(words: NDArray[np.int32]) -> NDArray[np.uint8]:
    """[k, W] words -> [8 * W, k] values, outputs in order."""
    nibbles = unpack_words(words, 4).reshape(words.shape[0], -1, 8)
    ordered = nibbles[:, :, list(_NIBBLE_OF_OUTPUT)].reshape(words.shape[0], -1)
    return np.ascontiguousarray(ordered.T)
