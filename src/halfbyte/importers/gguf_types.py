"""Tensor types of GGUF files, as the `gguf` package knows them: sizes, and which it can read."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np


@dataclass(frozen=True, slots=True)
class BlockType:
    """How weights of a type lie in a row."""

    name: str  # Q4_K, IQ4_NL …
    weights: int  # in a block
    num_bytes: int  # of a block


@cache
def types_by_id() -> Mapping[int, BlockType]:
    """Every type the package knows."""
    from gguf import GGML_QUANT_SIZES  # 0.1 s that a converted model does not need

    return {
        int(kind): BlockType(kind.name, weights, size)
        for kind, (weights, size) in GGML_QUANT_SIZES.items()
    }


@cache
def type_named(name: str) -> BlockType:
    """By its name."""
    return next(kind for kind in types_by_id().values() if kind.name == name)


@cache
def is_readable(name: str) -> bool:
    """Whether the package turns blocks of a type into numbers."""
    from gguf import GGMLQuantizationType, quants

    try:
        quants.dequantize(
            np.zeros((1, type_named(name).num_bytes), np.uint8), GGMLQuantizationType[name]
        )
    except NotImplementedError:
        return False
    return True


def readable_names() -> list[str]:
    """Names of the types that can be imported."""
    return [kind.name for kind in types_by_id().values() if is_readable(kind.name)]


def package_version() -> str:
    """Of the package whose knowledge this is."""
    return importlib.metadata.version("gguf")


def row_bytes(type_name: str, inputs: int) -> int:
    """Bytes of a row of `inputs` weights."""
    kind = type_named(type_name)
    return inputs // kind.weights * kind.num_bytes
