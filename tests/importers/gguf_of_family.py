"""A tiny Hugging Face model as llama.cpp's converter writes it: names, layout, metadata."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

F32 = NDArray[np.float32]
ARCHITECTURES = {
    "qwen3_moe": "qwen3moe",
    "mixtral": "llama",
    "gpt_oss": "gpt-oss",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "phi3": "phi3",
    "smollm3": "smollm3",
    "granite": "granite",
    "olmo2": "olmo2",
    "ministral3": "mistral3",
    "glm4": "glm4",
}
_PERMUTED = ("llama", "smollm3", "granite", "mistral3")  # q and k of these are turned for ggml
_NORMS_LESS_ONE = ("gemma2", "gemma3")
_EXPERT = re.compile(r"(.*\.experts)\.(\d+)\.(\w+)\.weight")


def write_gguf(directory: Path, path: Path) -> Path:
    """The model of a folder as a GGUF file of float32 tensors."""
    config = json.loads((directory / "config.json").read_text())
    arch = ARCHITECTURES[config["model_type"]]
    writer = gguf.GGUFWriter(path, arch)
    for key, value in _metadata(config, arch).items():
        if isinstance(value, str):
            writer.add_string(f"{arch}.{key}", value)
        elif isinstance(value, int):
            writer.add_uint32(f"{arch}.{key}", value)
        else:
            writer.add_float32(f"{arch}.{key}", value)
    for name, values in _tensors(load_file(directory / "model.safetensors"), config, arch):
        writer.add_tensor(name, np.ascontiguousarray(values, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tensors(stored: dict[str, F32], config: dict[str, Any], arch: str) -> list[tuple[str, F32]]:
    kind = next(a for a in gguf.MODEL_ARCH if gguf.MODEL_ARCH_NAMES[a] == arch)
    names = gguf.get_tensor_name_map(kind, config["num_hidden_layers"])
    found = []
    for name, values in _merged(stored).items():
        if arch in _PERMUTED and ("q_proj" in name or "k_proj" in name):
            heads = config["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
            values = _permute(values, heads)
        if arch in _NORMS_LESS_ONE and name.endswith("norm.weight"):
            values = values + np.float32(1)
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert theirs is not None, name
        found.append((theirs if "." in theirs[-7:] else theirs + ".weight", values))
    scaling = config.get("rope_parameters") or {}
    for which in ("long", "short"):
        if f"{which}_factor" in scaling:
            factors = np.array(scaling[f"{which}_factor"], np.float32)
            found.append((f"rope_factors_{which}.weight", factors))
    return found


def _merged(stored: dict[str, F32]) -> dict[str, F32]:
    """Experts in one tensor each; those of gpt-oss apart and turned over."""
    merged: dict[str, F32] = {}
    experts: dict[str, dict[int, F32]] = defaultdict(dict)
    for name, values in stored.items():
        if found := _EXPERT.fullmatch(name):
            experts[f"{found[1]}.{found[3]}.weight"][int(found[2])] = values
        elif "experts.gate_up_proj" in name:
            rows = values if name.endswith("_bias") else values.swapaxes(1, 2)
            end = ".bias" if name.endswith("_bias") else ".weight"
            base = name.partition(".gate_up_proj")[0]
            merged[f"{base}.gate_proj{end}"] = rows[:, 0::2]
            merged[f"{base}.up_proj{end}"] = rows[:, 1::2]
        elif name.endswith("experts.down_proj_bias"):
            merged[name.replace("_proj_bias", "_proj.bias")] = values
        elif name.endswith("experts.down_proj"):
            merged[f"{name}.weight"] = values.swapaxes(1, 2)
        else:
            merged[name] = values
    return merged | {n: np.stack([e[i] for i in range(len(e))]) for n, e in experts.items()}


def _permute(values: F32, heads: int) -> F32:
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)


def _metadata(config: dict[str, Any], arch: str) -> dict[str, Any]:
    ropes = config.get("rope_parameters") or {}
    rope = ropes.get("full_attention", ropes)
    heads = config["num_attention_heads"]
    size = config.get("head_dim") or config["hidden_size"] // heads
    values = {
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": heads,
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": size,
        "attention.value_length": size,
        "attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "rope.dimension_count": int(size * rope.get("partial_rotary_factor", 1)),
        "rope.freq_base": float(rope.get("rope_theta", config.get("rope_theta", 1e4))),
    }
    for key, theirs in {
        "num_experts_per_tok": "expert_used_count",
        "num_local_experts": "expert_count",
        "num_experts": "expert_count",
        "moe_intermediate_size": "expert_feed_forward_length",
        "sliding_window": "attention.sliding_window",
        "attn_logit_softcapping": "attn_logit_softcapping",
        "final_logit_softcapping": "final_logit_softcapping",
        "embedding_multiplier": "embedding_scale",
        "residual_multiplier": "residual_scale",
        "attention_multiplier": "attention.scale",
        "logits_scaling": "logit_scale",
    }.items():
        if config.get(key) is not None:
            values[theirs] = config[key]
    if arch == "gpt-oss":
        values["expert_feed_forward_length"] = config["intermediate_size"]
    if rope.get("rope_type") == "yarn":
        values |= {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": rope["factor"],
            "rope.scaling.original_context_length": rope["original_max_position_embeddings"],
        }
        if "llama_4_scaling_beta" in rope:
            values["attention.temperature_scale"] = rope["llama_4_scaling_beta"]
            values["rope.scaling.yarn_log_multiplier"] = rope["mscale_all_dim"]
    if rope.get("rope_type") == "longrope":
        original = config["original_max_position_embeddings"]
        values["rope.scaling.original_context_length"] = original
    return values
