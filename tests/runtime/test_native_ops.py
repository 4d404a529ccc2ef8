"""Native ops one at a time, isolated by models made for it.

Embedding rows are +-1, with a mean square of exactly one, so a norm only multiplies by its weight:
the next linear layer sees the same bits in both runtimes and must give the same bits.
A layer whose `o` and `down` are zero leaves the residual as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from halfbyte.config import Level, ModelConfig, RopeConfig, uniform_model
from halfbyte.formats.planes import dequantize, pack, pack_pairs
from halfbyte.formats.weights import Dense, Planes
from halfbyte.runtime import reference_ops as ops
from halfbyte.runtime.norm import rms_norm
from halfbyte.runtime.protocol import KvBits, Runtime
from tests.support.runtimes import (
    all_logits,
    build,
    every_tier,
    prefix_batch,
    random_tokens,
    relative_error,
)
from tests.support.tiny_models import TinyWeights, dense

F32 = NDArray[np.float32]
CONFIG = uniform_model(
    family="llama",
    vocab_size=131,
    hidden_size=256,
    intermediate_size=128,
    num_layers=1,
    num_heads=8,
    num_kv_heads=2,
    head_dim=32,
    max_context=1024,
    norm_eps=1e-12,  # lost beside 1
)
ROWS = 37  # more than any block of rows the kernels work on


def _signs(rng: np.random.Generator, config: ModelConfig) -> NDArray[np.int8]:
    return rng.choice([-1, 1], (config.vocab_size, config.hidden_size)).astype(np.int8)


def _uneven(rng: np.random.Generator, size: int) -> F32:
    """Values over many magnitudes, with whole groups of zeros and of nearly nothing."""
    values = rng.standard_normal(size) * 10.0 ** rng.integers(-6, 4, size)
    values[:32] = 0
    values[32:64] = 1e-35
    values[64:128] = rng.integers(-127, 128, 64)  # exact halves and integers once scaled: ties
    values[64] = 127
    return values.astype(np.float32)


@dataclass(frozen=True, slots=True)
class Stored:
    """How planes are stored."""

    group: int = 32
    offsets: bool = False
    units: bool = False
    lo_bits: int = 4


STORED = [
    Stored(group, offsets, units, lo_bits)
    for group in (32, 64, 128)
    for offsets in (False, True)
    for units, lo_bits in ((False, 4), (True, 4), (True, 2))
]


def _planes(rng: np.random.Generator, shape: tuple[int, int], stored: Stored) -> Planes:
    """Codes over the whole range; scales of both signs, zero and subnormal."""
    (outputs, inputs), group = shape, stored.group
    hi, lo = (rng.integers(-8, 8, shape).astype(np.int8) for _ in range(2))
    hi[0], lo[0], hi[1], lo[1] = -8, -8, 7, 7
    packed_lo = pack(lo) if stored.lo_bits == 4 else pack_pairs(lo & ~3)
    if stored.units:
        scale = rng.integers(-127, 128, (outputs, inputs // group)).astype(np.int8)
        scale[0], scale[1], scale[2] = -127, 127, 0
        offset = rng.integers(-128, 128, scale.shape).astype(np.int8) if stored.offsets else None
        unit = (rng.standard_normal(outputs) / 100).astype(np.float32)
        unit[3], unit[4] = 0, 1e-40
        return Planes(pack(hi), packed_lo, scale, offset, group, unit=unit)
    halves = rng.standard_normal((outputs, inputs // group)).astype(np.float16)
    halves[2], halves[3] = 0, np.float16(3e-7)
    floats = rng.standard_normal(halves.shape).astype(np.float32) if stored.offsets else None
    return Planes(pack(hi), packed_lo, halves, floats, group)


def _zero(outputs: int, inputs: int, group: int) -> Planes:
    codes = pack(np.zeros((outputs, inputs), np.int8))
    return Planes(codes, codes, np.zeros((outputs, inputs // group), np.float16), None, group)


def _shapes(c: ModelConfig) -> dict[str, tuple[int, int]]:
    heads, kv, inner = c.attention.query_width, c.attention.kv_width, c.feed_forward.size
    return {
        "head": (c.vocab_size, c.hidden_size),
        "layers.0.attn.q": (heads, c.hidden_size),
        "layers.0.attn.k": (kv, c.hidden_size),
        "layers.0.attn.v": (kv, c.hidden_size),
        "layers.0.attn.o": (c.hidden_size, heads),
        "layers.0.mlp.gate": (inner, c.hidden_size),
        "layers.0.mlp.up": (inner, c.hidden_size),
        "layers.0.mlp.down": (c.hidden_size, inner),
    }


def _quantized(stored: Stored, seed: int = 0, **given: Planes) -> TinyWeights:
    """A model of planes whose layer adds nothing, but for the matrices given."""
    rng = np.random.default_rng(seed)
    config, group = CONFIG.with_attention(bias=True), stored.group
    matrices: dict[str, Planes | Dense] = {}
    for name, shape in _shapes(config).items():
        planes = _planes(rng, shape, stored)
        matrices[name] = given.get(name.rpartition(".")[2], planes)
    for name in ("layers.0.attn.o", "layers.0.mlp.down"):
        matrices[name] = _zero(*_shapes(config)[name], group)
    ones = np.ones((config.vocab_size, config.hidden_size // group), np.float16)
    matrices["embed"] = Planes(pack(_signs(rng, config)), None, ones, None, group)
    vectors = {
        name: _uneven(rng, config.hidden_size)
        for name in ("norm.final", "layers.0.norm.attn", "layers.0.norm.mlp")
    }
    for x, heads in (("q", 8), ("k", 2), ("v", 2)):
        vectors[f"layers.0.attn.{x}.bias"] = rng.standard_normal(heads * 32).astype(np.float32)
    # The smallest V must still be a normal f16, or every bit would be lost in narrowing.
    vectors["layers.0.norm.attn"] = rng.standard_normal(config.hidden_size).astype(np.float32)
    return TinyWeights(config, matrices, vectors)


def _dense(dtype: str, config: ModelConfig = CONFIG, **given: F32) -> TinyWeights:
    """A dense model; the matrices not given are random (`o` and `down`: zero)."""
    rng = np.random.default_rng(1)
    matrices: dict[str, Planes | Dense] = {
        "embed": dense(_signs(rng, config).astype(np.float32), dtype)
    }
    for name, shape in _shapes(config).items():
        short = name.rpartition(".")[2]
        values = (rng.standard_normal(shape) / np.sqrt(shape[1])).astype(np.float32)
        if short in ("o", "down"):
            values[:] = 0
        matrices[name] = dense(given.get(short, values), dtype)
    vectors = {
        name: rng.standard_normal(config.hidden_size).astype(np.float32)
        for name in ("norm.final", "layers.0.norm.attn", "layers.0.norm.mlp")
    }
    return TinyWeights(config, matrices, vectors)


def _values(weights: TinyWeights, name: str) -> F32:
    matrix = weights.matrix(name)
    assert isinstance(matrix, Dense)
    return np.asarray(matrix.values, dtype=np.float32)


def _kv(runtime: Runtime, rows: int) -> tuple[KvBits, KvBits]:
    """K [rows, Hkv, D] and V [rows, Hkv, D] of positions 0 .. rows - 1 on pages 0, 1, …"""
    pages = [runtime.read_kv(0, p) for p in range(-(-rows // runtime.page_size))]
    keys = np.concatenate([k.transpose(2, 0, 1) for k, _ in pages])[:rows]
    values = np.concatenate([v.transpose(1, 0, 2) for _, v in pages])[:rows]
    return keys, values


@every_tier
@pytest.mark.parametrize("level", ["w4a4", "w4a8", "w4a16", "w8a8", "w8a16"])
@pytest.mark.parametrize("stored", STORED, ids=str)
def test_quantized_linear_layers_equal_the_twin_bit_for_bit(
    kind: str, level: str, stored: Stored
) -> None:
    weights = _quantized(stored)
    tokens = random_tokens(ROWS)
    native, twin = build(kind, weights), build("reference", weights)
    out, expected = (all_logits(r, tokens, Level.parse(level)) for r in (native, twin))
    assert np.isfinite(expected).all()
    assert out.tobytes() == expected.tobytes()
    (keys, values), (twin_keys, twin_values) = _kv(native, ROWS), _kv(twin, ROWS)
    assert (values == twin_values).all()  # v: linear, bias, narrowing
    assert (keys[0] == twin_keys[0]).all()  # k at position 0, where RoPE does nothing


@every_tier
@pytest.mark.parametrize("level", ["w4a8", "w8a8", "w8a16"])
@pytest.mark.parametrize("stored", STORED[:6], ids=str)
def test_a_row_s_result_is_the_same_among_any_number_of_rows(
    kind: str, level: str, stored: Stored
) -> None:
    weights = _quantized(stored)
    runtime, tokens = build(kind, weights), random_tokens(ROWS)
    whole = all_logits(runtime, tokens, Level.parse(level))
    for rows in range(1, 21):
        assert all_logits(runtime, tokens[:rows], Level.parse(level)).tobytes() == (
            whole[:rows].tobytes()
        )


@every_tier
@pytest.mark.parametrize("level", ["w4a8", "w8a8", "w8a16"])
def test_gated_mlp_of_units_is_the_twin_s(kind: str, level: str) -> None:
    rng = np.random.default_rng(3)
    stored = Stored(offsets=True, units=True, lo_bits=2)
    parts = {
        name: replace(
            _planes(rng, shape, stored),
            unit=np.full(shape[0], 1e-3, np.float32),
        )
        for name, shape in (("gate", (128, 256)), ("up", (128, 256)))
    }
    weights = _quantized(stored, **parts)
    weights.vectors["layers.0.norm.mlp"] = rng.standard_normal(256).astype(np.float32)
    weights.matrices["layers.0.mlp.down"] = _planes(rng, (256, 128), stored)
    tokens = random_tokens(ROWS)
    out, expected = (
        all_logits(build(k, weights), tokens, Level.parse(level)) for k in (kind, "reference")
    )
    # Exponentials differ by a bit or two, which may tip an activation code.
    assert relative_error(out, expected) <= 1e-3


@every_tier
@pytest.mark.parametrize("stored", STORED, ids=str)
def test_embedding_rows_are_dequantized_with_every_plane(kind: str, stored: Stored) -> None:
    weights = _quantized(stored)
    rng = np.random.default_rng(5)
    embed = _planes(rng, (CONFIG.vocab_size, CONFIG.hidden_size), stored)
    weights.matrices["embed"] = embed
    runtime, tokens = build(kind, weights), random_tokens(ROWS)
    runtime.keep_features((0,))
    all_logits(runtime, tokens, Level.parse("w4a8"))
    pages, slots = np.arange(-(-ROWS // 16), dtype=np.int32), np.arange(ROWS, dtype=np.int32)
    rows = runtime.read_features(pages, slots)
    assert rows.tobytes() == dequantize(embed, 8)[tokens].tobytes()


@every_tier
@pytest.mark.parametrize("stored", STORED[:6], ids=str)
def test_bytes_read_are_those_of_the_stored_arrays(kind: str, stored: Stored) -> None:
    weights = _quantized(stored)
    runtime = build(kind, weights)
    for level in ("w4a8", "w8a8"):
        expected = 0
        for name, matrix in weights.matrices.items():
            assert isinstance(matrix, Planes)
            rows = len(matrix.hi)
            for array, values in matrix.arrays.items():
                if name != "embed" and (array != "lo" or level == "w8a8"):
                    expected += values.nbytes // rows * (-(-rows // 32) * 32)  # whole panels
        assert runtime.weight_bytes(Level.parse(level)) == expected


@every_tier
def test_parts_of_one_matrix_that_are_stored_in_different_ways_are_refused(kind: str) -> None:
    rng = np.random.default_rng(5)
    shape, stored = (64, 256), Stored(units=True)
    plain, units = _planes(rng, shape, Stored()), _planes(rng, shape, stored)
    assert units.unit is not None
    pairs = _planes(rng, shape, replace(stored, lo_bits=2))
    infinite = units.unit.copy()
    infinite[7] = np.inf
    for changed, reason in (
        (plain, "all parts have a unit"),
        (pairs, "lo of 2 and of 4 bits"),
        (replace(units, unit=None), "scale must be f16"),
        (replace(plain, unit=units.unit), "int8 with a unit"),
        (replace(units, unit=infinite), "unit must be finite"),
        (replace(units, unit=units.unit[1:]), "one value a row"),
        (replace(units, offset=np.zeros((64, 8), np.float32)), "offset must be f32, int8"),
    ):
        with pytest.raises(ValueError, match=reason):
            build(kind, _quantized(stored, k=changed))


@every_tier
@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_dense_linear_layers_equal_the_twin_bit_for_bit(kind: str, dtype: str) -> None:
    weights = _dense(dtype)
    tokens = random_tokens(ROWS)
    native, twin = build(kind, weights), build("reference", weights)
    out, expected = (all_logits(r, tokens, Level.parse("f32")) for r in (native, twin))
    assert out.tobytes() == expected.tobytes()
    assert (_kv(native, ROWS)[1] == _kv(twin, ROWS)[1]).all()


@every_tier
@pytest.mark.parametrize("kv_dtype", ["f16", "bf16"])
def test_keys_are_rotated_as_the_twin_rotates_them(kind: str, kv_dtype: str) -> None:
    rope = RopeConfig(kind="llama3", factor=8.0, original_context=128)
    weights = _dense("f32", CONFIG.with_attention(rope=rope))
    # A few rows of a sequence far into its context: only K of these positions is looked at.
    native, twin = (build(k, weights, kv_dtype=kv_dtype) for k in (kind, "reference"))
    batch = prefix_batch(random_tokens(40), 16, first=760)
    for runtime in (native, twin):
        runtime.forward(batch, Level.parse("f32"), np.array([39], np.int32))
    keys, expected = _kv(native, 800)[0][760:], _kv(twin, 800)[0][760:]
    assert expected.any(axis=(1, 2)).all()
    differing = keys != expected
    assert differing.mean() < 1e-3  # a last-bit difference may fall on a rounding boundary
    apart = np.abs(keys.astype(np.int32) - expected)[differing]
    wide = ops.widen(expected, kv_dtype)[differing]
    assert ((apart == 1) | (np.abs(wide) < 1e-4)).all()


@every_tier
@pytest.mark.parametrize("kv_dtype", ["f16", "bf16", "f32"])
@pytest.mark.parametrize("window", [None, 24, 300])
@pytest.mark.parametrize("page_size", [16, 64])
def test_attention_over_the_runtime_s_own_cache_is_the_twin_s(
    kind: str, kv_dtype: str, window: int | None, page_size: int
) -> None:
    identity = np.eye(256, dtype=np.float32)
    config = replace(CONFIG, vocab_size=256).with_attention(window=window)
    weights = _dense("f32", config, o=identity, head=identity)
    tokens = random_tokens(500, 256)
    runtime = build(kind, weights, kv_dtype=kv_dtype, page_size=page_size)
    logits = all_logits(runtime, tokens, Level.parse("f32"))

    x = _values(weights, "embed")[tokens]
    normed = rms_norm(x, weights.vector("layers.0.norm.attn"), config.norm_eps)
    q = ops.linear_dense(_values(weights, "layers.0.attn.q"), normed)
    positions = np.arange(500, dtype=np.int32)
    angles = ops.rope_angles(positions, RopeConfig().inverse_frequencies(config.attention.head_dim))
    q = ops.rope(q.reshape(500, 8, 32), *angles) * np.float32(32**-0.5)
    keys, values = (ops.widen(bits, kv_dtype) for bits in _kv(runtime, 500))
    keys, values = keys.transpose(1, 2, 0), values.transpose(1, 0, 2)
    for m in (0, 1, 23, 24, 25, 255, 256, 257, 300, 499):
        first = max(0, m - window + 1) if window else 0
        attended = ops.attend(q[m].reshape(2, 4, 32), keys, values, first, m).reshape(-1)
        expected = rms_norm(x[m] + attended, weights.vector("norm.final"), config.norm_eps)
        assert relative_error(logits[m], expected) <= 1e-6


@every_tier
def test_gated_mlp_is_the_twin_s(kind: str) -> None:
    rng = np.random.default_rng(3)
    down = rng.standard_normal((256, 128)).astype(np.float32)
    weights = _dense(
        "f32", replace(CONFIG, vocab_size=256), down=down, head=np.eye(256, dtype=np.float32)
    )
    tokens = random_tokens(ROWS)
    out, expected = (
        all_logits(build(k, weights), tokens, Level.parse("f32")) for k in (kind, "reference")
    )
    assert relative_error(out, expected) <= 1e-6
