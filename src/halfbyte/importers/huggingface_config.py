"""config.json of a Hugging Face model -> ModelConfig."""

from __future__ import annotations

from typing import Any

from halfbyte.config import ModelConfig, RopeConfig, uniform_model
from halfbyte.errors import SourceError
from halfbyte.importers.families import MODEL_TYPES

_DEFAULT_EPS = 1e-6  # transformers' own default of every family here


def read_config(
    values: dict[str, Any], *, bos_id: int | None, eos_ids: tuple[int, ...]
) -> ModelConfig:
    """Raises SourceError or ModelError for what we cannot run."""
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in MODEL_TYPES:
        expected = ", ".join(MODEL_TYPES)
        raise SourceError(
            "config.json model_type", got=repr(kind)[:80], expected=expected, fix="use one of those"
        )
    _require(values, "hidden_act", "silu")
    _require(values, "mlp_bias", False)
    if kind in ("llama", "qwen3"):
        _require(values, "attention_bias", False)
    heads, hidden = _integer(values, "num_attention_heads"), _integer(values, "hidden_size")
    if heads < 1:
        raise _fault("num_attention_heads", heads, "a positive integer")
    vocab_size = _integer(values, "vocab_size")
    default_head = 128 if kind == "qwen3" else hidden // heads
    return uniform_model(
        family=MODEL_TYPES[kind],
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=_integer(values, "intermediate_size"),
        num_layers=_integer(values, "num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=_integer(values, "num_key_value_heads", 8 if kind == "mistral" else heads),
        head_dim=_integer(values, "head_dim", default_head),
        max_context=_integer(values, "max_position_embeddings", 2048),
        norm_eps=_real(values, "rms_norm_eps", _DEFAULT_EPS),
        rope=_read_rope(values),
        tied_head=_flag(values, "tie_word_embeddings"),
        qkv_bias=kind == "qwen2",
        qk_norm=kind == "qwen3",
        sliding_window=_read_window(values, kind),
        bos_id=bos_id if bos_id is not None and bos_id < vocab_size else None,
        eos_ids=tuple(token for token in eos_ids if token < vocab_size),
    )


def _read_window(values: dict[str, Any], kind: str) -> int | None:
    """Mistral means its window; Qwen only with `use_sliding_window`, and on upper layers."""
    if kind == "mistral":
        stated = values.get("sliding_window", 4096)  # transformers' own default
        return None if stated is None else _integer(values, "sliding_window", 4096)
    if (
        kind == "llama"
        or not _flag(values, "use_sliding_window")
        or values.get("sliding_window") is None
    ):
        return None
    # Layers below max_window_layers attend to everything.
    if _integer(values, "max_window_layers", 28) >= _integer(values, "num_hidden_layers"):
        return None
    if _integer(values, "max_window_layers", 28) == 0:
        return _integer(values, "sliding_window")
    raise _fault(
        "use_sliding_window", "a window on some layers only", "one window for all layers, or none"
    )


def _read_rope(values: dict[str, Any]) -> RopeConfig:
    """Old files: `rope_theta` and `rope_scaling`; newer ones: both inside `rope_parameters`."""
    scaling = values.get("rope_parameters") or values.get("rope_scaling") or {}
    if not isinstance(scaling, dict):
        raise _fault("rope_scaling", type(scaling).__name__, "an object")
    if any(isinstance(value, dict) for value in scaling.values()):
        raise _fault("rope_parameters", "several kinds of layers", "one RoPE for all layers")
    base = _real(scaling if "rope_theta" in scaling else values, "rope_theta", 10_000.0)
    if (
        _real(
            scaling if "partial_rotary_factor" in scaling else values, "partial_rotary_factor", 1.0
        )
        != 1.0
    ):
        raise _fault("partial_rotary_factor", "a part of the head", "1")
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind in ("default", None):
        return RopeConfig(base=base)
    if kind == "linear":
        return RopeConfig(base=base, kind="linear", factor=_real(scaling, "factor"))
    if kind == "llama3":
        return RopeConfig(
            base=base,
            kind="llama3",
            factor=_real(scaling, "factor"),
            low_freq_factor=_real(scaling, "low_freq_factor"),
            high_freq_factor=_real(scaling, "high_freq_factor"),
            original_context=_integer(scaling, "original_max_position_embeddings"),
        )
    raise _fault("rope_scaling type", repr(kind)[:80], "default, linear or llama3")


def _require(values: dict[str, Any], key: str, wanted: object) -> None:
    if values.get(key, wanted) != wanted:
        raise _fault(key, repr(values[key])[:80], repr(wanted))


def _flag(values: dict[str, Any], key: str) -> bool:
    value = values.get(key, False)
    if not isinstance(value, bool):
        raise _fault(key, repr(value)[:80], "true or false")
    return value


def _integer(values: dict[str, Any], key: str, default: int | None = None) -> int:
    value = values.get(key)
    value = default if value is None else value
    if type(value) is not int or not 0 <= value < 1 << 31:
        raise _fault(key, repr(value)[:80], "a non-negative integer")
    return value


def _real(values: dict[str, Any], key: str, default: float | None = None) -> float:
    value = values.get(key)
    value = default if value is None else value
    if not isinstance(value, float | int) or isinstance(value, bool) or not abs(value) < 1e30:
        raise _fault(key, repr(value)[:80], "a number")
    return float(value)


def _fault(key: str, got: object, expected: object) -> SourceError:
    fix = "this model cannot be run; use one without it, or check its config"
    return SourceError(f"config.json {key}", got=got, expected=expected, fix=fix)
