"""Random models small enough for milliseconds per forward: every family, group size, weight kind.

Layers are scaled so that attention and MLP matter and logits spread by a few units: greedy text
does not collapse into one token, and a 4-bit draft agrees with its 8-bit target often, not always.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfbyte.config import (
    Attention,
    Experts,
    FeedForward,
    LayerConfig,
    ModelConfig,
    RopeConfig,
    uniform_model,
)
from halfbyte.formats.names import (
    SITES,
    expected_matrices,
    expected_tensors,
    site_inputs,
    site_of,
)
from halfbyte.formats.planes import pack, pack_pairs, split
from halfbyte.formats.transforms import Gather, Rotation, Transform
from halfbyte.formats.weights import OFFSET_STEP, Dense, Planes

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class TinyWeights:
    """`Weights` held in dictionaries."""

    config: ModelConfig
    matrices: dict[str, Planes | Dense]
    vectors: dict[str, F32]
    head_bits: dict[int, int] = field(default_factory=lambda: {4: 4, 8: 8})

    def matrix(self, name: str) -> Planes | Dense:
        return self.matrices[name]

    def vector(self, name: str) -> F32:
        return self.vectors[name]


@dataclass(frozen=True, slots=True)
class Kind:
    """How the matrices of a tiny model are stored."""

    group_size: int = 32
    planes: int = 8  # 8: hi and lo, 4: hi only
    offsets: bool = False
    units: bool = False  # int8 scales and offsets
    lo_bits: int = 4
    dense: str = ""  # f32 | f16 | bf16: no planes at all
    transforms: str = ""  # rotations (of o and down) | gathers (of every input)
    wide_groups: int = 0  # of layer matrices


def _config(family: str, **changes: object) -> ModelConfig:
    fields: dict[str, Any] = {
        "family": family,
        "vocab_size": 131,  # not a multiple of any tile
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 16,
        "max_context": 4096,
        "norm_eps": 1e-5,
    }
    return uniform_model(**fields | changes)


_LLAMA3 = RopeConfig(
    base=10_000.0,
    kind="llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_context=64,  # short, so that tiny prompts reach all three bands
)

CONFIGS = {
    "llama": _config("llama", rope=_LLAMA3),
    "mistral": _config("mistral", sliding_window=24, num_kv_heads=1, head_dim=32),
    "qwen2": _config("qwen2", qkv_bias=True, tied_head=True, norm_eps=1e-6),
    "qwen3": _config("qwen3", qk_norm=True, head_dim=48, num_kv_heads=4, rope=RopeConfig(base=1e6)),
    "vocabulary": _config("llama", vocab_size=2500, num_layers=1),
    "wide": _config(
        "llama", hidden_size=128, intermediate_size=384, head_dim=64, num_heads=6, num_kv_heads=2
    ),
}

# Layers of several kinds, which between them have every part of a description.
_YARN = RopeConfig(
    base=10_000.0, kind="yarn", factor=8.0, original_context=32, attention_factor=1.2
)
_SINKS = Attention(4, 2, 16, rope=_YARN, window=24, sinks=True, bias=True, out_bias=True)
_CLAMPED = Experts(6, 2, FeedForward(64, "clamped-swiglu", bias=True, limit=2.0), router_bias=True)
_WIDE_HEADS = Attention(
    4, 1, 32, rope=RopeConfig(base=1e6, rotary_dim=24), qk_norm="head", softcap=8.0, scale=0.2
)
_NARROW_HEADS = Attention(6, 3, 16, window=24, qk_norm="head", softcap=8.0)
_GELU = FeedForward(128, "gelu-tanh")
_PLACED = Attention(
    4, 2, 16, rope=RopeConfig(original_context=16), qk_norm="whole", position_scale=0.2
)
_SHARED = Experts(
    37,
    4,
    FeedForward(64),
    routing="sigmoid",
    choice_bias=True,
    scale=1.5,
    shared=FeedForward(32),
    shared_gate=True,
)
LAYERED_CONFIGS = {
    "sinks": replace(
        CONFIGS["llama"],
        num_layers=3,
        kinds=(LayerConfig(_SINKS, _CLAMPED), LayerConfig(replace(_SINKS, window=None), _CLAMPED)),
        order=(0, 1),
    ),
    "heads": replace(
        CONFIGS["llama"],
        num_layers=3,
        kinds=(
            LayerConfig(_NARROW_HEADS, _GELU, norms="both"),
            LayerConfig(_WIDE_HEADS, _GELU, norms="both"),
        ),
        order=(0, 1),
        embedding_multiplier=0.6,
        logit_softcap=12.0,
    ),
    "shared": replace(
        CONFIGS["llama"],
        num_layers=3,
        kinds=(
            LayerConfig(_PLACED, _SHARED, norms="after", residual_multiplier=0.6),
            LayerConfig(replace(_PLACED, rope=None, position_scale=0), FeedForward(128)),
            LayerConfig(_PLACED, replace(_SHARED, routing="softmax", choice_bias=False)),
        ),
        order=(0, 1, 2),
        logit_multiplier=0.8,
    ),
}

# name -> (config, storage): what the parametrised tests run over.
MODELS = {
    "llama": ("llama", Kind()),
    "llama-4-planes": ("llama", Kind(planes=4)),
    "mistral-window": ("mistral", Kind(group_size=64)),
    "qwen2-bias-tied-offsets": ("qwen2", Kind(offsets=True)),
    "qwen3-qk-norm": ("qwen3", Kind(group_size=64)),
    "llama-2500-words": ("vocabulary", Kind()),
    "wide-g128": ("wide", Kind(group_size=128)),
    "wide-rotated": ("wide", Kind(transforms="rotations")),
    "llama-reordered": ("llama", Kind(transforms="gathers", wide_groups=1)),
    "wide-reordered-4-planes": (
        "wide",
        Kind(planes=4, transforms="gathers", wide_groups=2, offsets=True),
    ),
    "llama-units": ("llama", Kind(units=True)),
    "qwen2-tied-units-offsets-6-bits": ("qwen2", Kind(units=True, offsets=True, lo_bits=2)),
    "wide-units-reordered-4-planes": (
        "wide",
        Kind(planes=4, transforms="gathers", wide_groups=2, offsets=True, units=True),
    ),
    "layers-sinks-experts": ("sinks", Kind(offsets=True)),
    "layers-heads": ("heads", Kind()),
    "layers-shared-experts": ("shared", Kind(units=True)),
    "layers-sinks-experts-reordered": ("sinks", Kind(transforms="gathers", wide_groups=1)),
}
DENSE_MODELS = {
    "llama-f32": ("llama", Kind(dense="f32")),
    "mistral-f16": ("mistral", Kind(dense="f16")),
    "qwen2-bf16": ("qwen2", Kind(dense="bf16")),
    "qwen3-f32": ("qwen3", Kind(dense="f32")),
    "rotated-f32": ("wide", Kind(dense="f32", transforms="rotations")),
    "reordered-f32": ("llama", Kind(dense="f32", transforms="gathers")),
}
DENSE_LAYERED_MODELS = {
    "layers-sinks-experts-f32": ("sinks", Kind(dense="f32", transforms="gathers")),
    "layers-heads-f32": ("heads", Kind(dense="f32")),
    "layers-shared-experts-bf16": ("shared", Kind(dense="bf16")),
}


@cache
def tiny(name: str, seed: int = 0) -> TinyWeights:
    """One of the models above by name; the same object every time."""
    config, kind = (MODELS | DENSE_MODELS | DENSE_LAYERED_MODELS)[name]
    return make((CONFIGS | LAYERED_CONFIGS)[config], kind, seed)


def make(config: ModelConfig, kind: Kind, seed: int = 0) -> TinyWeights:
    """Weights of a random model of any config."""
    matrices: dict[str, Planes | Dense] = {}
    for name, (outputs, inputs, size) in _shapes(config).items():
        rng = _rng(seed, name)
        values = rng.standard_normal((outputs, inputs)).astype(np.float32)
        values *= np.float32(size / np.sqrt(inputs))
        matrix = dense(values, kind.dense) if kind.dense else planes_of(values, kind, rng)
        matrices[name] = with_layer_input(name, matrix, kind, config, seed)
    return TinyWeights(config, matrices, _vectors(config, seed))


def with_layer_input(
    name: str, matrix: Planes | Dense, kind: Kind, config: ModelConfig, seed: int
) -> Planes | Dense:
    """The matrix with the transform and the wide groups of its kind."""
    place = site_of(name)
    if place is None:
        return matrix
    layer, site = place
    transform: Transform | None = None
    if kind.transforms == "gathers":
        order = _rng(seed, f"{layer}.{site}.gather").permutation(site_inputs(config)[site])
        transform = Gather(order.astype(np.int32))
    elif kind.transforms == "rotations" and site in ("attn.o", "mlp.down"):
        transform = rotation_at(site, config)
    matrix = replace(matrix, transform=transform)
    if isinstance(matrix, Dense) or not kind.wide_groups:
        return matrix
    wide_bytes = kind.wide_groups * kind.group_size // 2
    lo = matrix.lo
    assert lo is not None
    return replace(
        matrix,
        lo=lo[:, -wide_bytes:].copy() if kind.planes == 4 else lo,
        wide_groups=kind.wide_groups,
    )


def rotation_at(site: str, config: ModelConfig) -> Rotation:
    """Across the heads before `o`, along the row before `down`; cores of every kind."""
    assert site in SITES
    if site == "attn.o":
        heads, size = config.attention.num_heads, config.attention.head_dim
        return Rotation(heads, "sylvester" if heads & (heads - 1) == 0 else "dct", stride=size)
    if config.feed_forward.size == 384:
        return Rotation(12, "paley-1", 32)
    return Rotation(1, "sylvester", 128)


def dense(values: F32, dtype: str) -> Dense:
    """`values` as a dense matrix of the dtype (bf16 by truncation)."""
    if dtype == "f32":
        return Dense(values, "f32")
    if dtype == "f16":
        return Dense(values.astype(np.float16), "f16")
    return Dense((values.view(np.uint32) >> 16).astype(np.uint16), "bf16")


def planes_of(values: F32, kind: Kind, rng: np.random.Generator) -> Planes:
    """Plain round to nearest; an offset, where asked for, is random and left out of the codes."""
    outputs, inputs = values.shape
    grouped = values.reshape(outputs, inputs // kind.group_size, kind.group_size)
    units = np.ones((outputs, 1), np.float32)
    if kind.units:
        units = np.abs(values).max(axis=1, keepdims=True) / np.float32(7.4 * 100)
    offset = None
    if kind.offsets:
        drawn = 0.2 * grouped.std() * rng.standard_normal(grouped.shape[:2])
        step = units * (OFFSET_STEP if kind.units else 1)
        offset = (drawn / step).astype(np.float32)
        if kind.units:
            offset = np.clip(np.rint(offset), -127, 127)
        grouped = grouped - (offset * step)[:, :, None]
    scale = np.abs(grouped).max(axis=2) / 7.4 / units
    scale = np.clip(np.rint(scale), 1, 127) if kind.units else scale.astype(np.float16)
    step = (scale.astype(np.float32) * units)[:, :, None] * np.float32(1 / 2**kind.lo_bits)
    largest = 119 >> (4 - kind.lo_bits)
    codes = np.clip(np.rint(grouped / step), -136 >> (4 - kind.lo_bits), largest)
    hi, lo = split(codes.reshape(outputs, inputs).astype(np.int16) << (4 - kind.lo_bits))
    packed_lo = None
    if kind.planes == 8 or kind.wide_groups:
        packed_lo = pack(lo) if kind.lo_bits == 4 else pack_pairs(lo)
    if kind.units:
        small = None if offset is None else offset.astype(np.int8)
        return Planes(
            pack(hi), packed_lo, scale.astype(np.int8), small, kind.group_size, unit=units[:, 0]
        )
    return Planes(pack(hi), packed_lo, scale, offset, kind.group_size)


def _shapes(c: ModelConfig) -> dict[str, tuple[int, int, float]]:
    """Matrix name -> outputs, inputs and the size of an output for inputs of size 1."""
    outer = {"embed": 3.0 if c.tied_head else 8.0, "head": 3.0}
    sizes = outer | {"v": 1.0, "gate": 1.0, "up": 1.0}
    return {
        name: (*shape, sizes.get(name.rpartition(".")[2], 2.0))
        for name, shape in expected_matrices(c)
    }


def _vectors(c: ModelConfig, seed: int) -> dict[str, F32]:
    vectors = {}
    for name, shape in expected_tensors(c):
        if len(shape) == 2:
            continue
        drawn = _rng(seed, name).standard_normal(shape)
        if name.endswith("router"):
            drawn *= 2 / np.sqrt(c.hidden_size)
        elif "norm" in name:
            drawn = 1 + 0.2 * drawn
        vectors[name] = drawn.astype(np.float32)
    if c.tied_head:
        # Without this a token's own row scores highest, and greedy text repeats itself.
        vectors["norm.final"] *= _rng(seed, "signs").choice([-1.0, 1.0], c.hidden_size)
    return vectors


def _rng(seed: int, name: str) -> np.random.Generator:
    """A generator of its own for each tensor, so that a new tensor changes no other."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])
