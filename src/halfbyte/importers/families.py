"""How GGUF and Hugging Face name the tensors of a model, and order the rows of q and k."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

GGUF_ARCHITECTURES = ("llama", "qwen2", "qwen3")  # Mistral files say llama
MODEL_TYPES = {"llama": "llama", "mistral": "mistral", "qwen2": "qwen2", "qwen3": "qwen3"}

# checkpoint name of a layer's tensor -> (GGUF, Hugging Face) names inside the layer, less
# `.weight` / `.bias`
_LAYER = {
    "attn.q": ("attn_q", "self_attn.q_proj"),
    "attn.k": ("attn_k", "self_attn.k_proj"),
    "attn.v": ("attn_v", "self_attn.v_proj"),
    "attn.o": ("attn_output", "self_attn.o_proj"),
    "attn.q_norm": ("attn_q_norm", "self_attn.q_norm"),
    "attn.k_norm": ("attn_k_norm", "self_attn.k_norm"),
    "mlp.gate": ("ffn_gate", "mlp.gate_proj"),
    "mlp.up": ("ffn_up", "mlp.up_proj"),
    "mlp.down": ("ffn_down", "mlp.down_proj"),
    "norm.attn": ("attn_norm", "input_layernorm"),
    "norm.mlp": ("ffn_norm", "post_attention_layernorm"),
}
_OUTER = {
    "embed": ("token_embd", "model.embed_tokens"),
    "norm.final": ("output_norm", "model.norm"),
    "head": ("output", "lm_head"),
}


def gguf_name(name: str) -> str:
    """Checkpoint name -> GGUF name: `layers.3.attn.q` -> `blk.3.attn_q.weight`."""
    return _translate(name, 0, "blk")


def hugging_face_name(name: str) -> str:
    """Checkpoint name -> Hugging Face name: `model.layers.3.self_attn.q_proj.weight`."""
    return _translate(name, 1, "model.layers")


def _translate(name: str, column: int, layer_prefix: str) -> str:
    base, suffix = (name[:-5], "bias") if name.endswith(".bias") else (name, "weight")
    if base in _OUTER:
        return f"{_OUTER[base][column]}.{suffix}"
    _, index, part = base.split(".", 2)
    return f"{layer_prefix}.{index}.{_LAYER[part][column]}.{suffix}"


def half_split_rows(num_heads: int, head_dim: int) -> NDArray[np.int64]:
    """Row r of a q or k matrix in our order is row result[r] of a GGUF llama file: [num_heads * D].

    A GGUF llama head keeps RoPE pairs side by side, we keep them half a head apart:

        GGUF   a0 b0 a1 b1 …        ours   a0 a1 … b0 b1 …
    """
    rows = np.arange(num_heads * head_dim).reshape(num_heads, head_dim // 2, 2)
    return rows.swapaxes(1, 2).reshape(-1)
