"""Which tensors a model has."""

from __future__ import annotations

from collections.abc import Iterator

from halfbyte.config import ModelConfig
from halfbyte.formats.names import expected_tensors


def vectors_of(config: ModelConfig) -> Iterator[tuple[str, int]]:
    """(name, length) of every vector, layers in order."""
    for name, shape in expected_tensors(config):
        if len(shape) == 1:
            yield name, shape[0]
