"""GGUF metadata -> ModelConfig."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from halfbyte.config import FLAT_FAMILIES, ModelConfig, RopeConfig, uniform_model
from halfbyte.errors import SourceError
from halfbyte.importers.architectures import BY_NAME, FAMILIES, Family, described
from halfbyte.importers.gguf_parts import GgufParts
from halfbyte.importers.keys import Keys

_REQUIRED = object()
_KEYS: dict[str, tuple[str, type]] = {
    "hidden_size": ("embedding_length", int),
    "num_hidden_layers": ("block_count", int),
    "intermediate_size": ("feed_forward_length", int),
    "num_attention_heads": ("attention.head_count", int),
    "num_key_value_heads": ("attention.head_count_kv", int),
    "head_dim": ("attention.key_length", int),
    "max_position_embeddings": ("context_length", int),
    "rms_norm_eps": ("attention.layer_norm_rms_epsilon", float),
    "rope_theta": ("rope.freq_base", float),
    "sliding_window": ("attention.sliding_window", int),
    "num_experts": ("expert_count", int),
    "num_local_experts": ("expert_count", int),
    "num_experts_per_tok": ("expert_used_count", int),
    "moe_intermediate_size": ("expert_feed_forward_length", int),
    "attn_logit_softcapping": ("attn_logit_softcapping", float),
    "final_logit_softcapping": ("final_logit_softcapping", float),
    "rope_local_base_freq": ("rope.freq_base_swa", float),
    "embedding_multiplier": ("embedding_scale", float),
    "residual_multiplier": ("residual_scale", float),
    "attention_multiplier": ("attention.scale", float),
    "logits_scaling": ("logit_scale", float),
    "llama_4_scaling_beta": ("attention.temperature_scale", float),
    "mscale_all_dim": ("rope.scaling.yarn_log_multiplier", float),
}


def read_config(
    parts: GgufParts,
    *,
    frequency_factors: tuple[float, ...],
    bos_id: int | None,
    eos_ids: tuple[int, ...],
) -> ModelConfig:
    """Raises SourceError or ModelError for what we cannot run."""
    metadata = parts.metadata
    family = family_of(metadata)
    read = _Reader(metadata, family.gguf)
    embed = parts.tensors.get("token_embd.weight")
    if embed is None or len(embed.shape) != 2:
        fix = "use a complete model file (not a projector or LoRA)"
        raise SourceError("GGUF file", got="no token_embd.weight matrix", expected="one", fix=fix)
    tied = "output.weight" not in parts.tensors
    if family.name in FLAT_FAMILIES:
        return _plain(parts, read, embed.shape[0], frequency_factors, bos_id, eos_ids)
    keys = _keys(read, family, parts)
    return described(
        family, keys, vocab_size=embed.shape[0], tied_head=tied, bos_id=bos_id, eos_ids=eos_ids
    )


def family_of(metadata: Mapping[str, Any]) -> Family:
    """By the architecture of a file. Raises SourceError for one that is not known."""
    arch = metadata.get("general.architecture")
    if arch == "llama" and metadata.get("llama.expert_count"):
        return BY_NAME["mixtral"]
    for family in FAMILIES:
        if family.gguf and family.gguf == arch:
            return family
    raise SourceError(
        "GGUF architecture",
        got=repr(arch)[:80],
        expected=" or ".join(dict.fromkeys(family.gguf for family in FAMILIES if family.gguf)),
        fix="use a model of those",
    )


def _keys(read: _Reader, family: Family, parts: GgufParts) -> Keys:
    """Metadata by the keys of config.json."""
    values: dict[str, Any] = {}
    for key, (name, kind) in _KEYS.items():
        if f"{read.arch}.{name}" in read.metadata:
            values[key] = read.integer(name) if kind is int else read.real(name)
    if f"{read.arch}.expert_feed_forward_length" not in read.metadata:
        values.pop("moe_intermediate_size", None)
    elif family.name != "qwen3_moe":
        values["intermediate_size"] = values["moe_intermediate_size"]
    size = values.get("head_dim") or values["hidden_size"] // max(1, values["num_attention_heads"])
    rotary = read.integer("rope.dimension_count", size)
    if 0 < rotary < size:
        values["partial_rotary_factor"] = rotary / size
    if scaling := _scaling(read, parts):
        values["rope_scaling"] = scaling
    values["attention_bias"] = "blk.0.attn_q.bias" in parts.tensors

    def label(key: str) -> str:
        return f"GGUF {read.arch}.{_KEYS[key][0] if key in _KEYS else key}"

    keys = Keys(values, label)
    return keys.with_values(family.gguf_values(keys))


def _scaling(read: _Reader, parts: GgufParts) -> dict[str, Any]:
    """What a file says of RoPE scaling, as `rope_scaling` of config.json."""
    kind = read.metadata.get(f"{read.arch}.rope.scaling.type", "none")
    factors = {
        key: parts.tensors.get(f"rope_factors_{key.removesuffix('_factor')}.weight")
        for key in ("long_factor", "short_factor")
    }
    scaling: dict[str, Any] = {}
    if all(tensor is not None and tensor.type_name == "F32" for tensor in factors.values()):
        kind = "longrope"
        for key, tensor in factors.items():
            assert tensor is not None
            scaling[key] = [float(x) for x in tensor.raw.view(np.dtype("<f4"))]
    if kind == "none":
        return {}
    for key, name in (
        ("factor", "factor"),
        ("attention_factor", "attn_factor"),
        ("beta_fast", "yarn_beta_fast"),
        ("beta_slow", "yarn_beta_slow"),
    ):
        if f"{read.arch}.rope.scaling.{name}" in read.metadata:
            scaling[key] = read.real(f"rope.scaling.{name}")
    name = "rope.scaling.original_context_length"
    if f"{read.arch}.{name}" in read.metadata:
        scaling["original_max_position_embeddings"] = read.integer(name)
    return scaling | {"rope_type": kind}


def _plain(
    parts: GgufParts,
    read: _Reader,
    vocab_size: int,
    frequency_factors: tuple[float, ...],
    bos_id: int | None,
    eos_ids: tuple[int, ...],
) -> ModelConfig:
    """Llama, Mistral, Qwen2 and Qwen3, told apart by what is in the file."""
    arch = read.arch
    heads, hidden = read.integer("attention.head_count"), read.integer("embedding_length")
    if not 0 < heads <= 1 << 16:
        raise read.fault("attention.head_count", heads, "a positive integer")
    head_dim = read.integer("attention.key_length", hidden // heads)
    for key, same in (("attention.value_length", head_dim), ("rope.dimension_count", head_dim)):
        if read.integer(key, same) != same:
            raise read.fault(key, read.integer(key, same), f"{same}, the head size")
    if read.integer("expert_count", 0):
        raise read.fault("expert_count", read.integer("expert_count"), "a dense model")
    window = read.integer("attention.sliding_window", 0) if arch == "llama" else 0
    context = read.integer("context_length")
    return uniform_model(
        family="mistral" if window else arch,
        vocab_size=vocab_size,
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
