"""GPTQ as AutoGPTQ and GPTQModel write it.

    qweight [K*bits/32, N] i32   inputs packed along K, the first in the lowest bits
    qzeros  [groups, N*bits/32] i32   outputs packed along N; version 1 stores zero - 1
    scales  [groups, N]
    g_idx   [K] i32   group of each input; act-order makes it irregular

A symmetric model has every zero in the middle (8 of 16). Version 2 (`checkpoint_format: gptq_v2`)
stores zeros as they are.
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


@dataclass(frozen=True, slots=True)
class Gptq:
    """See `packing.Packing`."""

    bits: int
    group_size: int | None
    zero_shift: int  # added to a stored zero
    left_alone: tuple[str, ...] = ()  # tensors show what was not converted
    main: tuple[str, str] = ("qweight", "I32")

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Gptq:
        """From quantization_config; raises SourceError for what is not read."""
        bits = one_of(values, "bits", (4, 8), 4)
        stated = values.get("checkpoint_format") or values.get("format")
        form = one_of(
            {"checkpoint_format": stated}, "checkpoint_format", ("gptq", "gptq_v2"), "gptq"
        )
        one_of(values, "pack_dtype", ("int32",), "int32")
        if values.get("dynamic"):
            raise fault("dynamic", "settings of single layers", "one setting for all layers")
        return cls(bits, group_setting(values), 1 if form == "gptq" else 0)

    @property
    def kind(self) -> str:
        """What people call it."""
        return f"GPTQ {self.bits}-bit"

    def tensors(self, rows: int, inputs: int) -> Mapping[str, PackedTensor]:
        """By suffix."""
        count, per_word = group_count(inputs, self.group_size), 32 // self.bits
        return {
            "qweight": packed(("I32",), (-(-inputs // per_word), rows)),
            "qzeros": packed(("I32",), (count, -(-rows // per_word))),
            "scales": packed(FLOATS, (count, rows)),
            "g_idx": packed(("I32", "I64"), (inputs,), optional=True),
        }

    def read(
        self, arrays: Mapping[str, NDArray[Any]], rows: int, inputs: int, begin: int, end: int
    ) -> IntegerWeights:
        """Rows begin .. end."""
        stored = unpack_words(arrays["qzeros"], self.bits)[:, begin:end]
        return IntegerWeights(
            codes=unpack_words(arrays["qweight"][:, begin:end].T, self.bits)[:, :inputs],
            zeros=stored.T.astype(np.int16) + np.int16(self.zero_shift),
            scales=np.ascontiguousarray(arrays["scales"][:, begin:end].T),
            groups=checked_groups(arrays.get("g_idx"), inputs, self.group_size),
            bits=self.bits,
        )
