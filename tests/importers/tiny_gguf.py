"""Small GGUF files written with the reference library."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from tokenizers.pre_tokenizers import ByteLevel

HIDDEN, INNER, HEADS, KV_HEADS, HEAD, VOCAB = 64, 96, 4, 2, 16, 288


def byte_vocabulary() -> list[str]:
    return sorted(ByteLevel.alphabet())


GPT2_TOKENS = [
    *byte_vocabulary(),
    "he",
    "ll",
    "hell",
    "hello",
    "Ġhello",
    "<|im_start|>",
    "<|im_end|>",
]
GPT2_MERGES = ["h e", "l l", "he ll", "hell o", "Ġ hello"]


def gpt2_tokenizer(pre: str = "qwen2") -> dict[str, Any]:
    """Metadata of a byte-level BPE tokenizer with two control tokens."""
    tokens = GPT2_TOKENS
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array([3 if t.startswith("<|") else 1 for t in tokens]),
        "tokenizer.ggml.merges": GPT2_MERGES,
        "tokenizer.ggml.bos_token_id": tokens.index("<|im_start|>"),
        "tokenizer.ggml.eos_token_id": tokens.index("<|im_end|>"),
        "tokenizer.chat_template": "{{ messages }}",
    }


@dataclass
class TinyGguf:
    """What a test changes before it writes: metadata under `arch.`, other metadata, tensors."""

    arch: str = "llama"
    tied: bool = False
    matrix_type: Type = Type.Q4_1
    outer_type: Type = Type.Q8_0
    seed: int = 0
    layers: int = 2
    numbers: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=gpt2_tokenizer)
    drop: tuple[str, ...] = ()
    extra: dict[str, np.ndarray] = field(default_factory=dict)
    values: dict[str, np.ndarray] = field(default_factory=dict)  # f32 of every tensor, as written

    def write(self, path: Path) -> Path:
        writer = gguf.GGUFWriter(path, self.arch)
        for key, value in {**self._numbers(), **self.numbers}.items():
            _add(writer, f"{self.arch}.{key}", value)
        for key, value in self.metadata.items():
            _add(writer, key, value)
        for name, shape, kind in self._tensors():
            if name not in self.drop:
                self._add_tensor(writer, name, shape, kind)
        for name, values in self.extra.items():
            writer.add_tensor(name, values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    def _numbers(self) -> dict[str, Any]:
        return {
            "block_count": self.layers,
            "context_length": 512,
            "embedding_length": HIDDEN,
            "feed_forward_length": INNER,
            "attention.head_count": HEADS,
            "attention.head_count_kv": KV_HEADS,
            "rope.freq_base": 10_000.0,
            "attention.layer_norm_rms_epsilon": 1e-5,
        }

    def _tensors(self) -> list[tuple[str, tuple[int, ...], Type]]:
        kind, outer, vector = self.matrix_type, self.outer_type, Type.F32
        found: list[tuple[str, tuple[int, ...], Type]] = [
            ("token_embd.weight", (VOCAB, HIDDEN), outer)
        ]
        for i in range(self.layers):
            found += [
                (f"blk.{i}.attn_q.weight", (HEADS * HEAD, HIDDEN), kind),
                (f"blk.{i}.attn_k.weight", (KV_HEADS * HEAD, HIDDEN), kind),
                (f"blk.{i}.attn_v.weight", (KV_HEADS * HEAD, HIDDEN), kind),
                (f"blk.{i}.attn_output.weight", (HIDDEN, HEADS * HEAD), kind),
                (f"blk.{i}.ffn_gate.weight", (INNER, HIDDEN), kind),
                (f"blk.{i}.ffn_up.weight", (INNER, HIDDEN), kind),
                (f"blk.{i}.ffn_down.weight", (HIDDEN, INNER), kind),
                (f"blk.{i}.attn_norm.weight", (HIDDEN,), vector),
                (f"blk.{i}.ffn_norm.weight", (HIDDEN,), vector),
            ]
            if self.arch == "qwen2":
                found.append((f"blk.{i}.attn_q.bias", (HEADS * HEAD,), vector))
                found += [(f"blk.{i}.attn_{x}.bias", (KV_HEADS * HEAD,), vector) for x in "kv"]
            if self.arch == "qwen3":
                found += [(f"blk.{i}.attn_{x}_norm.weight", (HEAD,), vector) for x in "qk"]
        found.append(("output_norm.weight", (HIDDEN,), vector))
        if not self.tied:
            found.append(("output.weight", (VOCAB, HIDDEN), outer))
        return found

    def _add_tensor(
        self, writer: gguf.GGUFWriter, name: str, shape: tuple[int, ...], kind: Type
    ) -> None:
        rng = np.random.default_rng([self.seed, len(self.values)])
        values = rng.normal(size=shape).astype(np.float32)
        if kind == Type.F16:
            raw: np.ndarray = values.astype(np.float16)
            writer.add_tensor(name, raw)
        else:
            raw = gguf.quants.quantize(values, kind)
            writer.add_tensor(name, raw, raw_dtype=kind)
        self.values[name] = gguf.quants.dequantize(raw, kind)


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value.tolist() if isinstance(value, np.ndarray) else value)
