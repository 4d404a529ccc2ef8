"""What a model to import offers, whatever file it is in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from halfbyte.errors import SourceError
from halfbyte.formats.weights import Dense, Planes, Weights

HEAD_BITS = {4: 4, 8: 8}  # a dense model has no planes to choose from; this is the neutral answer


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """A tokenizer as a checkpoint stores it; `json` is None for a model without one."""

    json: str | None = None  # Hugging Face tokenizers
    chat_template: str | None = None  # jinja
    named_templates: dict[str, str] = field(default_factory=dict)  # others, such as tool_use
    info: dict[str, Any] = field(
        default_factory=dict
    )  # bos, add_bos, eos_ids, bos_token, eos_token


class Source(Weights, Protocol):
    """A model file. As `Weights` it is the dense model of the `f32` level."""

    @property
    def tokenizer_json(self) -> str | None:
        """Hugging Face tokenizers JSON, None for a model without a tokenizer."""

    @property
    def chat_template(self) -> str | None:
        """Jinja source, None for a model without one."""

    @property
    def named_templates(self) -> Mapping[str, str]:
        """Further templates by name; `tool_use` is the one for conversations with tools."""

    @property
    def tokenizer_info(self) -> dict[str, Any]:
        """`bos`, `add_bos`, `eos_ids`, `bos_token`, `eos_token`: what the JSON does not say."""

    @property
    def description(self) -> dict[str, Any]:
        """Where the weights come from, for people: kind, name, architecture, types."""

    @property
    def natural(self) -> tuple[int, int] | None:
        """(planes, group size) that hold the layers exactly; None: no planes do."""

    def type_of(self, name: str) -> str:
        """How a matrix is stored: F32, F16, BF16, Q4_1 …"""

    def rows(self, name: str, begin: int, end: int) -> NDArray[np.float32]:
        """Rows begin .. end of a matrix as float32."""

    def exact_planes(self, name: str) -> Planes | None:
        """The matrix as planes of the natural group with exactly its values, or None."""

    def matrix(self, name: str) -> Dense:
        """A matrix with the values of the source: [N, K]."""


def bf16_to_f32(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Raw bf16 bits -> the same numbers."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def check_finite(name: str, values: NDArray[Any]) -> None:
    """Raise SourceError if a vector has a NaN or an infinity."""
    if not np.isfinite(values).all():
        fix = "the model file is damaged; download it again"
        raise SourceError(
            f"tensor {name}", got="NaN or infinity", expected="finite numbers", fix=fix
        )
