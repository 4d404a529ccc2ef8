"""GGUF metadata -> ModelConfig."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from halfbyte.config import ModelConfig, RopeConfig, uniform_model
from halfbyte.errors import SourceError
from halfbyte.importers.families import GGUF_ARCHITECTURES
from halfbyte.importers.gguf_parts import GgufParts

_REQUIRED = object()


def read_config(
    parts: GgufParts,
    *,
    frequency_factors: tuple[float, ...],
    bos_id: int | None,
    eos_ids: tuple[int, ...],
) -> ModelConfig:
    """Raises SourceError or ModelError for what we cannot run."""
    metadata = parts.metadata
    arch = metadata.get("general.architecture")
    if not isinstance(arch, str) or arch not in GGUF_ARCHITECTURES:
        expected = " or ".join(GGUF_ARCHITECTURES)
        raise SourceError(
            "GGUF architecture", got=repr(arch)[:80], expected=expected, fix="use a model of those"
        )
    read = _Reader(metadata, arch)
    heads, hidden = read.integer("attention.head_count"), read.integer("embedding_length")
    if not 0 < heads <= 1 << 16:
        raise read.fault("attention.head_count", heads, "a positive integer")
    head_dim = read.integer("attention.key_length", hidden // heads)
    for key, same in (("attention.value_length", head_dim), ("rope.dimension_count", head_dim)):
        if read.integer(key, same) != same:
            raise read.fault(key, read.integer(key, same), f"{same}, the head size")
    if read.integer("expert_count", 0):
        raise read.fault("expert_count", read.integer("expert_count"), "a dense model")
    embed = parts.tensors.get("token_embd.weight")
    if embed is None or len(embed.shape) != 2:
        fix = "use a complete model file (not a projector or LoRA)"
        raise SourceError("GGUF file", got="no token_embd.weight matrix", expected="one", fix=fix)
    window = read.integer("attention.sliding_window", 0) if arch == "llama" else 0
    context = read.integer("context_length")
    return uniform_model(
        family="mistral" if window else arch,
        vocab_size=embed.shape[0],
        hidden_size=hidden,
        intermediate_size=read.integer("feed_forward_length"),
        num_layers=read.integer("block_count"),
        num_heads=heads,
        num_kv_heads=read.integer("attention.head_count_kv", heads),
        head_dim=head_dim,
        max_context=context,
        norm_eps=read.real("attention.layer_norm_rms_epsilon"),
        rope=_read_rope(read, frequency_factors, head_dim // 2),
        tied_head="output.weight" not in parts.tensors,
        qkv_bias="blk.0.attn_q.bias" in parts.tensors,
        qk_norm="blk.0.attn_q_norm.weight" in parts.tensors,
        sliding_window=window if 0 < window < context else None,
        bos_id=bos_id,
        eos_ids=eos_ids,
    )


def _read_rope(read: _Reader, frequency_factors: tuple[float, ...], num_pairs: int) -> RopeConfig:
    base = read.real("rope.freq_base", 10_000.0)
    if frequency_factors:
        if len(frequency_factors) != num_pairs:
            got = f"rope_freqs.weight of {len(frequency_factors)} values"
            raise read.fault("rope", got, f"{num_pairs}")
        return RopeConfig(base=base, frequency_factors=frequency_factors)
    legacy_factor = read.real("rope.scale_linear", 1.0)
    kind = read.metadata.get(
        f"{read.arch}.rope.scaling.type", "linear" if legacy_factor != 1.0 else "none"
    )
    if not isinstance(kind, str) or kind not in ("none", "linear"):
        raise read.fault("rope.scaling.type", kind, "none or linear")
    factor = read.real("rope.scaling.factor", legacy_factor) if kind == "linear" else 1.0
    return RopeConfig(base=base, kind=kind, factor=factor)


class _Reader:
    """Numbers under `<architecture>.`, with their types checked."""

    def __init__(self, metadata: Mapping[str, Any], arch: str) -> None:
        self.metadata = metadata
        self.arch = arch

    def integer(self, key: str, default: Any = _REQUIRED) -> int:
        value = self._get(key, default)
        if isinstance(value, np.ndarray) and value.size and (value == value.flat[0]).all():
            value = value.flat[0].item()  # one number per layer, all the same
        if type(value) is not int or not 0 <= value < 1 << 31:
            raise self.fault(key, value, "one non-negative integer")
        return value

    def real(self, key: str, default: Any = _REQUIRED) -> float:
        value = self._get(key, default)
        if not isinstance(value, float | int) or isinstance(value, bool):
            raise self.fault(key, value, "a number")
        # the decimal that was meant: float32 1e-05, not the float64 9.99999974e-06
        return float(str(np.float32(value))) if abs(value) < 3e38 else float(value)

    def fault(self, key: str, got: object, expected: str) -> SourceError:
        fix = "this file cannot be run; use another model or conversion"
        return SourceError(f"GGUF {self.arch}.{key}", got=str(got)[:80], expected=expected, fix=fix)

    def _get(self, key: str, default: Any) -> Any:
        value = self.metadata.get(f"{self.arch}.{key}", default)
        if value is _REQUIRED:
            raise self.fault(key, "no such metadata", "a value")
        return value
