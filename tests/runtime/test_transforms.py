"""Rotations and wide groups: the twin against float64 matrices, every tier against the twin."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfbyte.config import LEVEL_NAMES, Level
from halfbyte.errors import ModelError
from halfbyte.formats import orthogonal
from halfbyte.formats.planes import dequantize
from halfbyte.formats.transforms import Gather, Rotation, Transform
from halfbyte.formats.weights import Dense, Planes
from halfbyte.runtime import reference_ops as ops
from tests.runtime.test_native_ops import ROWS, Stored, _dense, _kv, _quantized
from tests.support.runtimes import all_logits, build, every_tier, random_tokens, relative_error
from tests.support.tiny_models import TinyWeights, tiny

CORES = [(1, "sylvester"), (8, "sylvester"), (4, "paley-1"), (12, "paley-1"), (12, "paley-2")]
CORES += [(3, "dct"), (9, "dct"), (28, "paley-2")]
rotations = st.one_of(
    st.builds(
        lambda core, block: Rotation(*core, block),
        st.sampled_from(CORES),
        st.sampled_from([16, 32, 128]),
    ),
    st.builds(
        lambda core, stride: Rotation(*core, stride=stride),
        st.sampled_from(CORES),
        st.sampled_from([16, 48, 64]),
    ),
)


@settings(max_examples=40, deadline=None)
@given(rotations, st.integers(1, 2), st.integers(0, 2**32 - 1))
def test_the_twin_rotates_by_the_matrix_its_rule_defines(
    rotation: Rotation, spans: int, seed: int
) -> None:
    r = rotation
    hadamard = orthogonal.matrix("sylvester", r.block).astype(np.float64)
    whole = np.kron(np.kron(r.matrix, hadamard), np.eye(r.stride)) * float(r.scale)
    x = np.random.default_rng(seed).standard_normal((3, spans * r.span)).astype(np.float32)
    expected = (x.reshape(3, spans, -1).astype(np.float64) @ whole.T).reshape(x.shape)
    assert relative_error(ops.rotate(x, r), expected) <= 1e-6


# Rotations that fit 256 inputs, and a reordering.
INPUTS: list[Transform] = [
    Rotation(1, "sylvester", 256),
    Rotation(4, "paley-1", 64),
    Rotation(16, "sylvester", 16),
    Rotation(8, "dct", stride=32),
    Rotation(1, "sylvester", 32),
    Rotation(2, "sylvester", stride=16),
    Gather(np.random.default_rng(7).permutation(256).astype(np.int32)),
]


def _with_input(weights: TinyWeights, transform: Transform, wide: int) -> TinyWeights:
    """q, k and v with a transform of their input and wide groups."""
    matrices = dict(weights.matrices)
    for name, matrix in weights.matrices.items():
        if name[-2:] in (".q", ".k", ".v"):
            matrix = replace(matrix, transform=transform)
            if isinstance(matrix, Planes):
                matrix = replace(matrix, wide_groups=wide)
        matrices[name] = matrix
    return replace(weights, matrices=matrices)


@every_tier
@pytest.mark.parametrize("transform", INPUTS, ids=str)
def test_transforms_equal_the_twin_bit_for_bit(kind: str, transform: Transform) -> None:
    quantized = _with_input(_quantized(Stored()), transform, 0)
    dense = _with_input(_dense("f32"), transform, 0)
    tokens = random_tokens(ROWS)
    for weights, level in ((quantized, "w4a4"), (quantized, "w8a16"), (dense, "f32")):
        values = []
        for runtime in (build(kind, weights), build("reference", weights)):
            all_logits(runtime, tokens, Level.parse(level))
            values.append(_kv(runtime, ROWS)[1])
        assert (values[0] == values[1]).all()
        assert values[1].any()


@every_tier
@pytest.mark.parametrize("level", ["w4a4", "w4a8", "w4a16", "w8a16"])
@pytest.mark.parametrize(("group", "wide"), [(32, 1), (32, 8), (64, 2), (128, 1)])
@pytest.mark.parametrize("offsets", [False, True])
@pytest.mark.parametrize("units", [False, True])
def test_wide_groups_equal_the_twin_bit_for_bit(
    kind: str, level: str, group: int, wide: int, offsets: bool, units: bool
) -> None:
    weights = _with_input(_quantized(Stored(group, offsets, units)), INPUTS[-1], wide)
    plain = _with_input(_quantized(Stored(group, offsets, units)), INPUTS[-1], 0)
    only = _lo_of_wide_groups_only(weights) if level != "w8a16" else weights
    tokens = random_tokens(ROWS)
    values = []
    for w, k in ((only, kind), (weights, kind), (weights, "reference"), (plain, "reference")):
        runtime = build(k, w)
        all_logits(runtime, tokens, Level.parse(level))
        values.append(_kv(runtime, ROWS)[1])
    assert (values[0] == values[2]).all()
    assert (values[1] == values[2]).all()
    assert (values[2] == values[3]).all() == (level == "w8a16")


def _lo_of_wide_groups_only(weights: TinyWeights) -> TinyWeights:
    matrices = dict(weights.matrices)
    for name, m in weights.matrices.items():
        if isinstance(m, Planes) and m.wide_groups and m.lo is not None:
            matrices[name] = replace(m, lo=m.lo[:, -m.wide_groups * m.group_size // 2 :].copy())
    return replace(weights, matrices=matrices)


def test_dequantized_wide_groups_have_8_bits_at_either_precision() -> None:
    planes = tiny("llama").matrix("layers.0.attn.q")
    assert isinstance(planes, Planes)
    wide = replace(planes, wide_groups=1)
    four, eight = dequantize(planes, 4), dequantize(planes, 8)
    np.testing.assert_array_equal(dequantize(wide, 8), eight)
    np.testing.assert_array_equal(dequantize(wide, 4)[:, -32:], eight[:, -32:])
    np.testing.assert_array_equal(dequantize(wide, 4)[:, :-32], four[:, :-32])
    alone = replace(wide, lo=wide.lo[:, -16:])  # type: ignore[index]
    np.testing.assert_array_equal(dequantize(alone, 4), dequantize(wide, 4))
    np.testing.assert_array_equal(dequantize(alone, 8), dequantize(wide, 4))


@every_tier
def test_bytes_read_count_lo_of_wide_groups_alone(kind: str) -> None:
    for model in ("llama-reordered", "wide-reordered-4-planes", "wide-rotated"):
        native, twin = (build(k, tiny(model)) for k in (kind, "reference"))
        for level in map(Level.parse, LEVEL_NAMES):
            assert native.supports(level) == twin.supports(level)
    weights = tiny("wide-reordered-4-planes")
    narrow = _without_wide(weights)
    extra = build(kind, weights).weight_bytes(W4) - build(kind, narrow).weight_bytes(W4)
    rows = sum(
        m.hi.shape[0]
        for n, m in weights.matrices.items()
        if n.startswith("layers") and isinstance(m, Planes)
    )
    assert extra == rows * 2 * 32 // 2


W4 = Level.parse("w4a8")


def _without_wide(weights: TinyWeights) -> TinyWeights:
    def narrow(m: Planes | Dense) -> Planes | Dense:
        if isinstance(m, Planes) and m.wide_groups:
            return replace(m, wide_groups=0, lo=None)
        return m

    return replace(weights, matrices={n: narrow(m) for n, m in weights.matrices.items()})


def test_matrices_that_share_an_input_share_its_transform() -> None:
    weights = _with_input(_dense("f32"), INPUTS[0], 0)
    k = replace(weights.matrices["layers.0.attn.k"], transform=INPUTS[1])
    odd = replace(weights, matrices={**weights.matrices, "layers.0.attn.k": k})
    with pytest.raises(ModelError, match="one transform"):
        build("native-scalar", odd)
