"""Small Hugging Face directories with quantized layers, packed by plain definitions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from halfbyte.formats.names import expected_tensors
from halfbyte.formats.tensor_file import write_tensor_file
from halfbyte.importers.families import hugging_face_name
from halfbyte.importers.huggingface_config import read_config
from tests.importers.tiny_huggingface import CONFIG, tiny_values

Tensors = dict[str, tuple[str, np.ndarray]]
GROUP = 32
SETTINGS: dict[str, dict[str, Any]] = {
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm"},
    "pack": {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {
                    "num_bits": 4,
                    "type": "int",
                    "symmetric": True,
                    "strategy": "group",
                    "group_size": GROUP,
                    "dynamic": False,
                },
            }
        },
        "ignore": ["lm_head"],
    },
    "int": {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {
                    "num_bits": 8,
                    "type": "int",
                    "symmetric": True,
                    "strategy": "channel",
                    "dynamic": False,
                },
                "input_activations": {"num_bits": 8, "dynamic": True, "strategy": "token"},
            }
        },
        "ignore": ["lm_head"],
    },
}


def words(values: np.ndarray, bits: int = 4) -> np.ndarray:
    """[..., n] -> [..., n * bits / 32] words, one value after the other from the lowest bit."""
    per_word = 32 // bits
    parts = values.astype(np.uint32).reshape(*values.shape[:-1], -1, per_word)
    shifts = np.arange(per_word, dtype=np.uint32) * np.uint32(bits)
    packed: np.ndarray = (parts << shifts).sum(axis=-1, dtype=np.uint32).view(np.int32)
    return packed


def write(
    directory: Path,
    kind: str,
    *,
    settings: dict[str, Any] | None = None,
    down_order: bool = False,
    **changes: Any,
) -> dict[str, np.ndarray]:
    """A packed llama; returns checkpoint name -> the float32 values its matrices stand for.

    `down_order`: act-order in the down projections alone, whose inputs can be put in order.
    `changes`: tensor name -> (dtype, array) to write instead, or None to leave it out.
    """
    rng = np.random.default_rng(5)
    tensors: Tensors = {}
    meant = {}
    floats = tiny_values(CONFIG)
    for name, shape in expected_tensors(read_config(CONFIG, bos_id=None, eos_ids=())):
        theirs = hugging_face_name(name)
        if not name.startswith("layers") or len(shape) == 1:
            tensors[theirs] = ("F32", floats[theirs])
            continue
        rows, inputs = shape
        groups = inputs // GROUP if kind != "int" else 1
        index = np.arange(inputs) * groups // inputs
        if down_order and name.endswith("down"):
            index = rng.permutation(index)
        scales = rng.uniform(0.01, 0.1, (rows, groups)).astype(np.float16)
        most = 256 if kind == "int" else 16
        codes = rng.integers(0, most, (rows, inputs))
        zeros = np.full((rows, groups), most // 2)
        if kind in ("gptq", "awq"):
            zeros = rng.integers(1, 16, (rows, groups))
        steps = codes - zeros[:, index]
        meant[name] = steps.astype(np.float32) * scales.astype(np.float32)[:, index]
        stem = theirs.removesuffix(".weight")
        for suffix, tensor in _pack(kind, codes, zeros, scales, index).items():
            tensors[f"{stem}.{suffix}"] = tensor
    for tensor_name, tensor in changes.items():
        tensors.pop(tensor_name, None)
        if tensor is not None:
            tensors[tensor_name] = tensor
    directory.mkdir(parents=True)
    config = CONFIG | {"quantization_config": settings or SETTINGS[kind]}
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    write_tensor_file(directory / "model.safetensors", tensors)
    return meant


def _pack(
    kind: str, codes: np.ndarray, zeros: np.ndarray, scales: np.ndarray, index: np.ndarray
) -> Tensors:
    if kind == "gptq":
        return {
            "qweight": ("I32", words(codes).T),
            "qzeros": ("I32", words(zeros.T - 1)),
            "scales": ("F16", scales.T),
            "g_idx": ("I32", index.astype(np.int32)),
        }
    if kind == "awq":
        order = [0, 2, 4, 6, 1, 3, 5, 7]
        return {
            "qweight": ("I32", words(codes.T.reshape(codes.shape[1], -1, 8)[:, :, order])[:, :, 0]),
            "qzeros": ("I32", words(zeros.T.reshape(zeros.shape[1], -1, 8)[:, :, order])[:, :, 0]),
            "scales": ("F16", scales.T),
        }
    if kind == "pack":
        return {
            "weight_packed": ("I32", words(codes)),
            "weight_scale": ("F16", scales),
            "weight_shape": ("I64", np.array(codes.shape)),
        }
    return {
        "weight": ("I8", (codes - 128).astype(np.int8)),
        "weight_scale": ("F16", scales),
    }
