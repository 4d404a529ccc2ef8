"""Writes the seeds of tests/data/fuzz again: python -m tests.fuzz.make_corpus."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType as Type

from halfbyte.config import ModelConfig, RopeConfig, uniform_model
from halfbyte.formats.names import expected_tensors
from halfbyte.formats.tensor_file import write_tensor_file
from halfbyte.formats.transforms import Rotation
from halfbyte.formats.writer import CheckpointWriter
from halfbyte.importers.convert_head import write_head
from tests.formats.tiny import random_dense, random_planes, with_unit, with_wide
from tests.fuzz.corpus import CORPUS
from tests.importers import packed_model
from tests.importers.tiny_gguf import TinyGguf
from tests.importers.tiny_huggingface import CONFIG, tiny_values, write_model
from tests.support.tiny_heads import HEADS, make_head

_SMALL = {"hidden": 32, "inner": 32, "layers": 1, "vocab": 32}
_WORDS = ["a", "b", "ab", "\u0120", "\u0120a", "<|im_start|>", "<|im_end|>"]
_BYTE_LEVEL: dict[str, Any] = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "qwen2",
    "tokenizer.ggml.tokens": _WORDS,
    "tokenizer.ggml.merges": ["a b", "\u0120 a"],
    "tokenizer.ggml.token_type": np.array([1, 1, 1, 1, 1, 3, 3], np.int32),
    "tokenizer.ggml.bos_token_id": 5,
    "tokenizer.ggml.eos_token_id": 6,
    "tokenizer.chat_template": "{{ messages }}",
}
_PIECES = ["<unk>", "<s>", "</s>", "<0x41>", "\u2581", "a", "b", "\u2581a", "ab"]
_SENTENCEPIECE: dict[str, Any] = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": _PIECES,
    "tokenizer.ggml.scores": np.array([0, 0, 0, 0, -1, -2, -3, -4, -5], np.float32),
    "tokenizer.ggml.token_type": np.array([2, 3, 3, 6, 1, 1, 1, 1, 1], np.int32),
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.add_bos_token": True,
}
_TINY = uniform_model(
    family="llama",
    vocab_size=32,
    hidden_size=32,
    intermediate_size=32,
    num_layers=1,
    num_heads=2,
    num_kv_heads=1,
    head_dim=16,
    max_context=64,
    norm_eps=1e-5,
    eos_ids=(2,),
)
_TINY_CONFIG: dict[str, Any] = CONFIG | {
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def _gguf(arch: str, kind: Type, text: dict[str, Any], **how: Any) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        settings = {**_SMALL, "outer_type": kind, **how}
        tiny = TinyGguf(arch=arch, matrix_type=kind, metadata=text, **settings)
        one = tiny.parts == 1
        tiny.write(path / ("m-00001-of-00002.gguf" if one else "m.gguf"))

    return make


def _tokenizer(path: Path) -> None:
    vocab = {"<s>": 0, "</s>": 1, "a": 2, "b": 3, "ab": 4}
    special = {"special": True, "single_word": False, "lstrip": False, "rstrip": False}
    added = [{"id": i, "content": vocab_token, "normalized": False, **special}
             for vocab_token, i in vocab.items() if i < 2]  # fmt: skip
    model = {"type": "BPE", "vocab": vocab, "merges": ["a b"], "unk_token": None}
    text = {"version": "1.0", "added_tokens": added, "normalizer": None, "model": model}
    (path / "tokenizer.json").write_text(json.dumps(text))
    settings = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "chat_template": "x"}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 2]}))


def _plain(config: dict[str, Any], dtype: str, shards: int = 1) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.rmdir()
        write_model(path, _TINY_CONFIG | config, dtype=dtype, shards=shards)
        _tokenizer(path)

    return make


def _packed(kind: str, **how: Any) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.rmdir()
        before, packed_model.CONFIG = packed_model.CONFIG, _TINY_CONFIG
        try:
            packed_model.write(path, kind, **how)
        finally:
            packed_model.CONFIG = before

    return make


def _checkpoint(config: ModelConfig = _TINY, **how: Any) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.rmdir()
        rng = np.random.default_rng(0)
        with CheckpointWriter(path) as writer:
            for name, shape in expected_tensors(config):
                if len(shape) == 1:
                    writer.add_vector(name, np.ones(shape, np.float32))
                elif how.get("dense"):
                    writer.add_matrix(name, random_dense(rng, shape, how["dense"]))
                else:
                    matrix = random_planes(rng, shape, offset=name.endswith("down"))
                    if how.get("units"):
                        matrix = with_unit(rng, matrix, pairs=name == "embed")
                    if how.get("rotated") and name.endswith("down"):
                        matrix = replace(with_wide(matrix, 1), offset=None)
                        turn = Rotation(core=1, kind="sylvester", block=32)
                        matrix = replace(matrix, transform=turn)
                    writer.add_matrix(name, matrix)
            writer.finish(
                config,
                group_size=None if how.get("dense") else 32,
                head_bits={4: 4, 8: 8},
                source={"kind": "random"},
                tokenizer_json=_TOKENIZER,
                tokenizer_info={"bos": 0, "add_bos": True, "eos_ids": [1], "bos_token": "<s>"},
                chat_template="{{ messages }}",
            )

    return make


_TOKENIZER = json.dumps(
    {"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}
)


def _head(kind: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.rmdir()
        scored = 8 if HEADS[kind].draft_vocab else None
        config = replace(HEADS[kind], model=_TINY, taps=None, draft_vocab=scored)
        write_head(make_head(config), path, source={"kind": "random"})

    return make


def _published_head(path: Path) -> None:
    names = ("q", "k", "v", "o")
    values = {
        f"layers.0.self_attn.{x}_proj.weight": tiny_values(_TINY_CONFIG)[
            f"model.layers.0.self_attn.{x}_proj.weight"
        ]
        for x in names
    }
    for x in ("gate", "up", "down"):
        values[f"layers.0.mlp.{x}_proj.weight"] = np.ones((32, 32), np.float32)
    values["layers.0.post_attention_layernorm.weight"] = np.ones(32, np.float32)
    values["fc.weight"] = np.ones((32, 64), np.float32)
    write_tensor_file(path / "model.safetensors", {n: ("F32", v) for n, v in values.items()})
    config = _TINY_CONFIG | {"architectures": ["LlamaForCausalLMEagle"]}
    (path / "config.json").write_text(json.dumps(config))


def _tensors(path: Path) -> None:
    arrays = {
        "a": ("F32", np.ones((2, 3), np.float32)),
        "b": ("BF16", np.ones(5, np.uint16)),
        "c": ("I64", np.ones((1, 1, 2), np.int64)),
        "d": ("U8", np.zeros((0, 4), np.uint8)),
    }
    write_tensor_file(path / "x.safetensors", arrays)


_TEMPLATES = Path(__file__).parents[1] / "data" / "chat_templates"
_CONVERSATION: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "the <|im_start|> of\nit \U0001f600"},
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "a tool",
            "tool_calls": [
                {
                    "id": "call00001",
                    "type": "function",
                    "function": {"name": "find", "arguments": {"what": "x", "many": [1, 2.5]}},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "call00001", "name": "find", "content": "[]"},
        {"role": "user", "content": "so?"},
    ],
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "find",
                "description": "finds",
                "parameters": {"type": "object", "properties": {"what": {"type": "string"}}},
            },
        }
    ],
    "variables": {"enable_thinking": True},
}


def _template(name: str, *, talks: bool = False) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        source = (_TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
        (path / "template.jinja").write_text(source, encoding="utf-8")
        told: dict[str, Any] = dict(_CONVERSATION)
        if talks:
            told = {"messages": told["messages"][1:2], "tools": None, "variables": None}
        (path / "conversation.json").write_text(json.dumps(told))

    return make


_LLAMA3 = RopeConfig(kind="llama3", factor=8.0)
SEEDS: dict[str, dict[str, Callable[[Path], None]]] = {
    "safetensors": {"four": _tensors},
    "template": {
        "chatml": _template("chatml", talks=True),
        "inst": _template("inst", talks=True),
        "list": _template("python_list"),
        "names": _template("name_and_arguments"),
        "keys": _template("keys_and_values"),
    },
    "gguf": {
        "sentencepiece-q8_0": _gguf("llama", Type.Q8_0, _SENTENCEPIECE),
        "byte-level-in-two-parts": _gguf("qwen2", Type.Q4_1, _BYTE_LEVEL, parts=2, hidden=64),
        "qwen3-iq4_nl": _gguf("qwen3", Type.IQ4_NL, _BYTE_LEVEL, tied=True),
        "rope-factors": _gguf(
            "llama",
            Type.Q5_1,
            _BYTE_LEVEL,
            extra={"rope_freqs.weight": np.ones(8, np.float32)},
            numbers={"attention.sliding_window": 8, "rope.dimension_count": 16},
        ),
    },
    "huggingface": {
        "llama3-f16": _plain(
            {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                              "high_freq_factor": 4.0, "original_max_position_embeddings": 64}},
            "F16",
        ),
        "qwen2-bf16-in-two-shards": _plain({"model_type": "qwen2"}, "BF16", 2),
        "gptq": _packed("gptq"),
        "gptq-act-order": _packed("gptq", down_order=True),
        "awq": _packed("awq"),
        "pack-quantized": _packed("pack"),
        "int-quantized": _packed("int"),
    },
    "checkpoint": {
        "planes": _checkpoint(),
        "units": _checkpoint(units=True),
        "rotated": _checkpoint(rotated=True),
        "dense": _checkpoint(dense="f16"),
        "qwen3": _checkpoint(
            replace(_TINY, family="qwen3").with_attention(qk_norm="head", rope=_LLAMA3)),
    },
    "head": {
        "eagle": _head("eagle-normed"),
        "eagle3": _head("eagle3"),
        "published": _published_head,
    },
}  # fmt: skip


def main() -> None:
    """Write every seed; inputs that once failed stay."""
    for target, seeds in SEEDS.items():
        for name, make in seeds.items():
            with tempfile.TemporaryDirectory() as scratch:
                path = Path(scratch) / "seed"
                path.mkdir()
                make(path)
                dest = CORPUS / target / name
                shutil.rmtree(dest, ignore_errors=True)
                dest.parent.mkdir(parents=True, exist_ok=True)
                shutil.copytree(path, dest)


if __name__ == "__main__":
    main()
