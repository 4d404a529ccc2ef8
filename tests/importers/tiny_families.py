"""Tiny random models of every family, of the config classes of transformers themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

VOCAB = 96
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "attn_implementation": "eager",
}
_EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2}
_YARN: dict[str, Any] = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 8.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "original_max_position_embeddings": 64,
}
_LONG: dict[str, Any] = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "partial_rotary_factor": 0.75,
    "short_factor": [1.0 + 0.1 * i for i in range(12)],
    "long_factor": [2.0 + 0.5 * i for i in range(12)],
}
_WINDOWS = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]

# name -> (class of transformers, what differs from SIZES)
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "mistral": ("Mistral", {"sliding_window": 24}),
    "qwen2": ("Qwen2", {"head_dim": 16}),
    "qwen3": ("Qwen3", {}),
    "qwen3_moe": (
        "Qwen3Moe",
        _EXPERTS | {"num_experts": 8, "moe_intermediate_size": 32, "norm_topk_prob": True},
    ),
    "qwen3_moe-plain-shares": (
        "Qwen3Moe",
        _EXPERTS | {"num_experts": 4, "moe_intermediate_size": 32, "norm_topk_prob": False},
    ),
    "mixtral": ("Mixtral", _EXPERTS | {"num_local_experts": 4}),
    "gpt_oss": (
        "GptOss",
        _EXPERTS
        | {
            "num_local_experts": 4,
            "sliding_window": 16,
            "rope_parameters": _YARN | {"truncate": False},
        },
    ),
    "gemma2": ("Gemma2", {"sliding_window": 16, "query_pre_attn_scalar": 32}),
    "gemma2-scaled": (
        "Gemma2",
        {"query_pre_attn_scalar": 24, "layer_types": ["full_attention"] * 4},
    ),
    "gemma3": (
        "Gemma3Text",
        {"num_hidden_layers": 7, "sliding_window": 16, "query_pre_attn_scalar": 32},
    ),
    "gemma3-scaled": (
        "Gemma3Text",
        {"sliding_window": 16, "query_pre_attn_scalar": 24, "layer_types": _WINDOWS},
    ),
    "gemma4-small": (
        "Gemma4Text",
        {
            "num_hidden_layers": 7,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2
            + ["full_attention"],
            "global_head_dim": 64,
            "sliding_window": 16,
            "vocab_size_per_layer_input": VOCAB,
            "hidden_size_per_layer_input": 32,
            "num_kv_shared_layers": 3,
            "use_double_wide_mlp": True,
            "final_logit_softcapping": 30.0,
        },
    ),
    "gemma4-tied": (
        "Gemma4Text",
        {
            "layer_types": _WINDOWS,
            "global_head_dim": 64,
            "num_global_key_value_heads": 1,
            "attention_k_eq_v": True,
            "sliding_window": 16,
            "hidden_size_per_layer_input": 0,
        },
    ),
    "gemma4-experts": (
        "Gemma4Text",
        {
            "layer_types": _WINDOWS,
            "global_head_dim": 64,
            "sliding_window": 16,
            "hidden_size_per_layer_input": 0,
            "enable_moe_block": True,
            "num_experts": 4,
            "top_k_experts": 2,
            "moe_intermediate_size": 32,
        },
    ),
    "phi3-short": (
        "Phi3",
        {
            "head_dim": 16,
            "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.75},
        },
    ),
    "phi3-long": (
        "Phi3",
        {"hidden_size": 128, "original_max_position_embeddings": 64, "rope_parameters": _LONG},
    ),
    "smollm3": ("SmolLM3", {}),
    "granite": (
        "Granite",
        {
            "head_dim": 16,
            "embedding_multiplier": 12.0,
            "logits_scaling": 8.0,
            "residual_multiplier": 0.22,
            "attention_multiplier": 0.1,
        },
    ),
    "olmo2": ("Olmo2", {"head_dim": 16}),
    "ministral3": (
        "Ministral3",
        {
            "rope_parameters": _YARN
            | {"llama_4_scaling_beta": 0.1, "mscale": 1.0, "mscale_all_dim": 1.0}
        },
    ),
    "glm4": ("Glm4", {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}),
}  # fmt: skip


def model_of(name: str) -> Any:
    """The model in float32, every parameter drawn so that it matters."""
    kind, changes = MODELS[name]
    config = getattr(transformers, f"{kind}Config")(**SIZES | changes)
    made = kind.removesuffix("Text")
    model = getattr(transformers, f"{made}ForCausalLM")(config).float().eval()
    random = np.random.default_rng(len(name))
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            drawn = random.standard_normal(tuple(parameter.shape))
            if "norm" in parameter_name:
                drawn = 0.2 * drawn + (0 if made in ("Gemma2", "Gemma3") else 1)
            elif parameter.ndim > 1 and "bias" not in parameter_name:
                drawn *= 2 / np.sqrt(parameter.shape[-1])
            parameter.copy_(torch.from_numpy(drawn))
        for buffer_name, buffer in model.named_buffers():
            if buffer_name.endswith("layer_scalar"):
                buffer.copy_(torch.from_numpy(random.uniform(0.5, 1.5, 1)))
    return model


def written(name: str, directory: Path) -> tuple[Path, Any]:
    """The model as `save_pretrained` writes it, and itself."""
    model = model_of(name)
    model.save_pretrained(directory)
    return directory, model


def logits_of(model: Any, tokens: NDArray[np.int32]) -> NDArray[np.float32]:
    """[M, V] of a prompt."""
    with torch.no_grad():
        out = model(torch.from_numpy(tokens[None].astype(np.int64)))
    logits: NDArray[np.float32] = out.logits[0].float().numpy()
    return logits
