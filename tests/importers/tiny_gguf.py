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
    hidden: int = HIDDEN
    inner: int = INNER
    vocab: int = VOCAB
    parts: int = 1  # files it is split into
    numbers: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=gpt2_tokenizer)
    drop: tuple[str, ...] = ()
    extra: dict[str, np.ndarray] = field(default_factory=dict)
    values: dict[str, np.ndarray] = field(default_factory=dict)  # f32 of every tensor, as written

    def write(self, path: Path) -> Path:
        """The file, or the first of `parts`: path-00001-of-0000N.gguf."""
        made = [
            (name, self._values(name, shape, kind), kind)
            for name, shape, kind in self._tensors()
            if name not in self.drop
        ]
        made += [(name, values, None) for name, values in self.extra.items()]
        paths = [path]
        if self.parts > 1:
            ends = [f"{i + 1:05d}-of-{self.parts:05d}.gguf" for i in range(self.parts)]
            paths = [path.with_name(f"{path.stem}-{end}") for end in ends]
        for number, which in enumerate(np.array_split(np.arange(len(made)), self.parts)):
            writer = gguf.GGUFWriter(paths[number], self.arch)
            if number == 0:
                for key, value in {**self._numbers(), **self.numbers}.items():
                    _add(writer, f"{self.arch}.{key}", value)
                for key, value in self.metadata.items():
                    _add(writer, key, value)
            if self.parts > 1:
                writer.add_uint16("split.no", number)
                writer.add_uint16("split.count", self.parts)
                writer.add_int32("split.tensors.count", len(made))
            for name, values, kind in (made[i] for i in which):
                writer.add_tensor(name, values, raw_dtype=kind)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
        return paths[0]

    def _numbers(self) -> dict[str, Any]:
        return {
            "block_count": self.layers,
            "context_length": 512,
            "embedding_length": self.hidden,
            "feed_forward_length": self.inner,
            "attention.head_count": self.hidden // HEAD,
            "attention.head_count_kv": KV_HEADS,
            "rope.freq_base": 10_000.0,
            "attention.layer_norm_rms_epsilon": 1e-5,
        }

    def _tensors(self) -> list[tuple[str, tuple[int, ...], Type]]:
        kind, outer, vector = self.matrix_type, self.outer_type, Type.F32
        hidden, inner = self.hidden, self.inner
        found: list[tuple[str, tuple[int, ...], Type]] = [
            ("token_embd.weight", (self.vocab, hidden), outer)
        ]
        for i in range(self.layers):
            found += [
                (f"blk.{i}.attn_q.weight", (hidden, hidden), kind),
                (f"blk.{i}.attn_k.weight", (KV_HEADS * HEAD, hidden), kind),
                (f"blk.{i}.attn_v.weight", (KV_HEADS * HEAD, hidden), kind),
                (f"blk.{i}.attn_output.weight", (hidden, hidden), kind),
                (f"blk.{i}.ffn_gate.weight", (inner, hidden), kind),
                (f"blk.{i}.ffn_up.weight", (inner, hidden), kind),
                (f"blk.{i}.ffn_down.weight", (hidden, inner), kind),
                (f"blk.{i}.attn_norm.weight", (hidden,), vector),
                (f"blk.{i}.ffn_norm.weight", (hidden,), vector),
            ]
            if self.arch == "qwen2":
                found.append((f"blk.{i}.attn_q.bias", (HEADS * HEAD,), vector))
                found += [(f"blk.{i}.attn_{x}.bias", (KV_HEADS * HEAD,), vector) for x in "kv"]
            if self.arch == "qwen3":
                found += [(f"blk.{i}.attn_{x}_norm.weight", (HEAD,), vector) for x in "qk"]
        found.append(("output_norm.weight", (hidden,), vector))
        if not self.tied:
            found.append(("output.weight", (self.vocab, hidden), outer))
        return found

    def _values(self, name: str, shape: tuple[int, ...], kind: Type) -> np.ndarray:
        """As stored; `values` keeps what it stands for."""
        rng = np.random.default_rng([self.seed, len(self.values)])
        values = rng.normal(size=shape).astype(np.float32)
        if kind == Type.F16:
            raw: np.ndarray = values.astype(np.float16)
        else:
            try:
                raw = gguf.quants.quantize(values, kind)
            except NotImplementedError:
                raw = random_blocks(rng, shape, kind)
        self.values[name] = gguf.quants.dequantize(raw, kind)
        return raw


def random_blocks(rng: np.random.Generator, shape: tuple[int, ...], kind: Type) -> np.ndarray:
    """Blocks of a type that the library cannot write: random codes, ordinary scales."""
    rows, inputs = shape
    weights, size = gguf.GGML_QUANT_SIZES[kind]
    if weights == 1:
        values = rng.normal(size=shape).astype(np.float32)
        return values if kind == Type.F32 else gguf.quants.quantize(values, kind)
    blocks = rng.integers(0, 256, (rows, inputs // weights, size), dtype=np.uint8)
    scales = rng.uniform(0.01, 0.1, (*blocks.shape[:2], 2)).astype(np.float16).view(np.uint8)
    place = _SCALES.get(kind.name)
    if kind == Type.MXFP4:
        blocks[:, :, 0] = rng.integers(120, 130, blocks.shape[:2])
    elif kind == Type.NVFP4:
        blocks[:, :, :4] = rng.integers(0x28, 0x48, (*blocks.shape[:2], 4))
    elif kind == Type.IQ1_M:  # its scale is made of the upper nibbles of four 16-bit words
        words = np.zeros((*blocks.shape[:2], 4), np.uint16)
        bits = rng.uniform(0.01, 0.1, blocks.shape[:2]).astype(np.float16).view(np.uint16)
        for i in range(4):
            words[:, :, i] = ((bits >> (4 * i)) & 15) << 12
            words[:, :, i] |= rng.integers(0, 1 << 12, bits.shape, dtype=np.uint16)
        blocks[:, :, 48:56] = words.view(np.uint8)
    elif place is not None:
        for at, begin in enumerate(place):
            blocks[:, :, begin : begin + 2] = scales[:, :, 2 * at : 2 * at + 2]
    return blocks.reshape(rows, -1)


# Where a block has its half precision scales, and its offsets.
_SCALES = {
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "IQ2_XXS": (0,),
    "IQ2_XS": (0,),
    "IQ2_S": (0,),
    "IQ3_XXS": (0,),
    "IQ3_S": (0,),
    "IQ1_S": (0,),
    "IQ4_NL": (0,),
    "IQ4_XS": (0,),
    "TQ1_0": (52,),
    "TQ2_0": (64,),
}


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
