"""RoPE in a config.json: the kinds of scaling it names -> RopeConfig."""

from __future__ import annotations

import math
from typing import Any

from halfbyte.config import RopeConfig
from halfbyte.importers.keys import Keys

PLAIN_KINDS = ("default", "linear", "llama3")
ALL_KINDS = (*PLAIN_KINDS, "yarn", "longrope", "proportional")


def read_rope(keys: Keys, head_dim: int, kinds: tuple[str, ...] = ALL_KINDS) -> RopeConfig:
    """Old files: `rope_theta` and `rope_scaling`; newer ones: both inside `rope_parameters`."""
    name = "rope_parameters" if keys.values.get("rope_parameters") else "rope_scaling"
    scaling = keys.inside(name)
    if any(isinstance(value, dict) for value in scaling.values.values()):
        raise keys.fault("rope_parameters", "several kinds of layers", "one RoPE for all layers")
    return rope_of(keys, scaling, head_dim, kinds=kinds)


def rope_of(
    keys: Keys,
    scaling: Keys,
    head_dim: int,
    *,
    theta: float = 10_000.0,
    kinds: tuple[str, ...] = ALL_KINDS,
) -> RopeConfig:
    """What `scaling` says; what it leaves out is looked for in `keys`, `theta` last."""
    base = (scaling if "rope_theta" in scaling.values else keys).real("rope_theta", theta)
    holder = scaling if "partial_rotary_factor" in scaling.values else keys
    share = holder.real("partial_rotary_factor", 1.0)
    if share != 1.0 and kinds == PLAIN_KINDS:
        raise keys.fault("partial_rotary_factor", "a part of the head", "1")
    if not 0 < share <= 1:
        raise keys.fault("partial_rotary_factor", share, "0 to 1")
    rotary = int(head_dim * share)
    fields: dict[str, Any] = {"base": base, "rotary_dim": None if share == 1 else rotary}
    kind = scaling.values.get("rope_type", scaling.values.get("type", "default"))
    if kind == "su":
        kind = "longrope"  # its first name
    if not isinstance(kind, str | None) or (kind or "default") not in kinds:
        expected = f"{', '.join(kinds[:-1])} or {kinds[-1]}"
        raise keys.fault("rope_scaling type", repr(kind)[:80], expected)
    if kind in ("linear", "proportional"):
        needed = None if kind == "linear" else 1.0
        fields |= {"kind": kind, "factor": scaling.real("factor", needed)}
    elif kind == "llama3":
        fields |= {
            "kind": "llama3",
            "factor": scaling.real("factor"),
            "low_freq_factor": scaling.real("low_freq_factor"),
            "high_freq_factor": scaling.real("high_freq_factor"),
            "original_context": scaling.integer("original_max_position_embeddings"),
        }
    elif kind == "yarn":
        fields |= _yarn(keys, scaling)
    elif kind == "longrope":
        fields |= _longrope(keys, scaling)
    return RopeConfig(**fields)


def _yarn(keys: Keys, scaling: Keys) -> dict[str, Any]:
    factor = scaling.real("factor")
    attention = scaling.maybe_real("attention_factor")
    if attention is None:
        of, to = (scaling.maybe_real(name) for name in ("mscale", "mscale_all_dim"))
        attention = _mscale(factor, of) / _mscale(factor, to) if of and to else _mscale(factor)
    return {
        "kind": "yarn",
        "factor": factor,
        "original_context": _original(keys, scaling),
        "attention_factor": attention,
        "beta_fast": scaling.real("beta_fast", 32.0),
        "beta_slow": scaling.real("beta_slow", 1.0),
        "truncate": scaling.flag("truncate", True),
    }


def _mscale(factor: float, times: float | None = 1.0) -> float:
    return 1.0 if factor <= 1 else 0.1 * (times or 1.0) * math.log(factor) + 1.0


def _longrope(keys: Keys, scaling: Keys) -> dict[str, Any]:
    """The long factors, where the model reads more than it was first trained for.

    A runtime that writes KV once cannot change factors as a text grows, so they are those of the
    longest text, as in llama.cpp and vLLM.
    """
    original, longest = _original(keys, scaling), keys.positive("max_position_embeddings")
    factors = scaling.numbers("long_factor" if longest > original else "short_factor")
    factor = scaling.maybe_real("factor")
    factor = longest / original if factor is None else factor
    attention = scaling.maybe_real("attention_factor")
    if attention is None:
        far = factor > 1 and original > 1
        attention = math.sqrt(1 + math.log(factor) / math.log(original)) if far else 1.0
    return {"frequency_factors": factors, "attention_factor": attention}


def _original(keys: Keys, scaling: Keys) -> int:
    name = "original_max_position_embeddings"
    return (scaling if scaling.values.get(name) is not None else keys).positive(
        name, keys.positive("max_position_embeddings")
    )
