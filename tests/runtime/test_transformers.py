"""Logits at `f32` against Hugging Face transformers on random models of every family.

Tolerance: ‖out - ref‖ / ‖ref‖ <= 1e-5 over all rows with f32 KV pages: what is left is the order of
float32 sums. Pages of f16 round K and V to 11 bits, which these sharp random models show.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from halfbyte.config import Level, ModelConfig, RopeConfig
from halfbyte.formats.weights import Dense
from halfbyte.runtime.reference_ops import widen
from tests.support.runtimes import all_logits, build, every_runtime, random_tokens, relative_error
from tests.support.tiny_models import CONFIGS, DENSE_MODELS, Kind, TinyWeights, make, tiny

CLASSES: dict[str, tuple[Any, Any]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}
TOKENS = random_tokens(100)  # past the window of 24 and all three bands of the llama3 rope


def hugging_face_config(c: ModelConfig) -> Any:
    mixer = c.attention
    assert mixer.rope is not None
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": mixer.rope.base}
    if mixer.rope.kind == "llama3":
        rope = {
            "rope_type": "llama3",
            "rope_theta": mixer.rope.base,
            "factor": mixer.rope.factor,
            "low_freq_factor": mixer.rope.low_freq_factor,
            "high_freq_factor": mixer.rope.high_freq_factor,
            "original_max_position_embeddings": mixer.rope.original_context,
        }
    values: dict[str, Any] = {
        "vocab_size": c.vocab_size,
        "hidden_size": c.hidden_size,
        "intermediate_size": c.feed_forward.size,
        "num_hidden_layers": c.num_layers,
        "num_attention_heads": mixer.num_heads,
        "num_key_value_heads": mixer.num_kv_heads,
        "head_dim": mixer.head_dim,
        "max_position_embeddings": c.max_context,
        "rms_norm_eps": c.norm_eps,
        "tie_word_embeddings": c.tied_head,
        "rope_parameters": rope,
        "attn_implementation": "eager",
    }
    if c.family == "mistral":
        values["sliding_window"] = mixer.window
    return CLASSES[c.family][0](**values)


def _values(weights: TinyWeights, name: str) -> NDArray[np.float32]:
    matrix = weights.matrix(name)
    assert isinstance(matrix, Dense)
    if matrix.dtype == "f32":
        return np.asarray(matrix.values, np.float32)
    return widen(matrix.values.view(np.uint16), matrix.dtype)


def hugging_face_model(weights: TinyWeights) -> Any:
    """The same model in float32."""
    c = weights.config
    state = {
        "model.embed_tokens.weight": _values(weights, "embed"),
        "model.norm.weight": weights.vector("norm.final"),
        "lm_head.weight": _values(weights, "embed" if c.tied_head else "head"),
    }
    for i in range(c.num_layers):
        ours, theirs = f"layers.{i}", f"model.layers.{i}"
        state[f"{theirs}.input_layernorm.weight"] = weights.vector(f"{ours}.norm.attn")
        state[f"{theirs}.post_attention_layernorm.weight"] = weights.vector(f"{ours}.norm.mlp")
        for x in "qkvo":
            state[f"{theirs}.self_attn.{x}_proj.weight"] = _values(weights, f"{ours}.attn.{x}")
        for x in ("gate", "up", "down"):
            state[f"{theirs}.mlp.{x}_proj.weight"] = _values(weights, f"{ours}.mlp.{x}")
        if c.attention.bias:
            for x in "qkv":
                state[f"{theirs}.self_attn.{x}_proj.bias"] = weights.vector(f"{ours}.attn.{x}.bias")
        if c.attention.qk_norm != "none":
            for x in "qk":
                state[f"{theirs}.self_attn.{x}_norm.weight"] = weights.vector(
                    f"{ours}.attn.{x}_norm"
                )
    model = CLASSES[c.family][1](hugging_face_config(c))
    model.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in state.items()}, strict=True)
    return model.float().eval()


def hugging_face_logits(weights: TinyWeights) -> NDArray[np.float32]:
    with torch.no_grad():
        out = hugging_face_model(weights)(torch.from_numpy(TOKENS[None].astype(np.int64)))
    logits: NDArray[np.float32] = out.logits[0].numpy()
    return logits


@every_runtime
@pytest.mark.parametrize("model", [m for m, (_, k) in DENSE_MODELS.items() if not k.transforms])
def test_f32_logits_equal_transformers(kind: str, model: str) -> None:
    weights = tiny(model)
    expected = hugging_face_logits(weights)
    exact = all_logits(build(kind, weights, kv_dtype="f32"), TOKENS, Level.parse("f32"))
    assert relative_error(exact, expected) <= 1e-5
    rounded = all_logits(build(kind, weights, kv_dtype="f16"), TOKENS, Level.parse("f32"))
    assert 1e-5 < relative_error(rounded, expected) <= 2e-3


@pytest.mark.parametrize("config", ["llama", "mistral"])
def test_the_tolerance_sees_a_wrong_window_or_rope(config: str) -> None:
    """The comparison must fail where the models differ in what it is meant to check."""
    weights = make(CONFIGS[config], Kind(dense="f32"))
    expected = hugging_face_logits(weights)
    c = weights.config
    changes: dict[str, Any] = {"window": 25} if c.attention.window else {"rope": RopeConfig()}
    changed = replace(weights, config=c.with_attention(**changes))
    logits = all_logits(build("reference", changed, kv_dtype="f32"), TOKENS, Level.parse("f32"))
    assert relative_error(logits, expected) > 1e-2
