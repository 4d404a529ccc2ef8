"""Small Hugging Face model directories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from halfbyte.formats.names import expected_tensors
from halfbyte.formats.tensor_file import write_tensor_file
from halfbyte.importers.families import hugging_face_name
from halfbyte.importers.huggingface_config import read_config

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_act": "silu",
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
    "rope_theta": 500000.0,
    "bos_token_id": 1,
    "eos_token_id": [2, 3],
}


def tiny_values(config: dict[str, Any], dtype: str = "F32") -> dict[str, np.ndarray]:
    """Hugging Face name -> random values; BF16 as bits."""
    rng = np.random.default_rng(0)
    values = {}
    for name, shape in expected_tensors(read_config(config, bos_id=None, eos_ids=())):
        f32 = rng.normal(size=shape).astype(np.float32)
        raw: np.ndarray = f32
        if dtype == "F16":
            raw = f32.astype(np.float16)
        elif dtype == "BF16":
            raw = (f32.view(np.uint32) >> 16).astype(np.uint16)
        values[hugging_face_name(name)] = raw
    return values


def write_model(
    directory: Path,
    config: dict[str, Any] | None = None,
    *,
    dtype: str = "F32",
    shards: int = 1,
    values: dict[str, np.ndarray] | None = None,
    **files: Any,
) -> Path:
    """`files`: further JSON files by stem, e.g. generation_config={…}."""
    config = CONFIG if config is None else config
    values = tiny_values(config, dtype) if values is None else values
    directory.mkdir(parents=True)
    for stem, content in {"config": config, **files}.items():
        (directory / f"{stem}.json").write_text(json.dumps(content))
    named = {name: (dtype, array) for name, array in values.items()}
    if shards == 1:
        write_tensor_file(directory / "model.safetensors", named)
        return directory
    weight_map = {}
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = dict(list(named.items())[i::shards])
        write_tensor_file(directory / file, part)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory
