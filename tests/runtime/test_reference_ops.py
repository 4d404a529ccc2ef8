"""The twin's ops against float64 or exact arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from halfbyte.runtime import reference_ops as ops
from halfbyte.runtime.norm import rms_norm
from tests.support.runtimes import relative_error

F32 = NDArray[np.float32]
floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _f32(*values: float | np.float32) -> F32:
    return np.array(values, dtype=np.float32)


def _normal(*shape: int, seed: int = 0) -> F32:
    return _rng(seed).standard_normal(shape).astype(np.float32)


def _rounded(value: Fraction) -> np.float32:
    """An exact value to the nearest float32, ties to even, from its neighbours."""
    with np.errstate(over="ignore"):
        near = np.float32(float(value))
    if not np.isfinite(near):
        return near
    candidates = [
        near,
        np.nextafter(near, np.float32(np.inf)),
        np.nextafter(near, -np.float32(np.inf)),
    ]
    finite = [c for c in candidates if np.isfinite(c)]
    return min(finite, key=lambda c: (abs(Fraction(float(c)) - value), int(c.view(np.uint32)) & 1))


@given(a=floats, b=floats, c=floats)
def test_fma_rounds_once(a: float, b: float, c: float) -> None:
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if abs(exact) >= Fraction(2) ** 127:
        return  # overflow to infinity is not part of the claim
    got = ops.fma(_f32(a), _f32(b), _f32(c))[0]
    assert got == _rounded(exact)


def test_fma_is_right_where_two_roundings_are_not() -> None:
    # 1 + 2^-24 is a midpoint of float32; the last term decides, and float64 cannot hold it.
    a, b = _f32(2.0**-60, -(2.0**-60)), _f32(1, 1)
    c = _f32(1, 1)
    one_ulp = np.float32(1) + np.float32(2.0**-23)
    tie = np.float32(1 + 2.0**-12)
    square = ops.fma(_f32(tie), _f32(tie), _f32(2.0**-80))[0]
    assert list(ops.fma(a, b, c)) == [1, 1]
    # tie * tie = 1 + 2^-11 + 2^-24: on the midpoint, pushed up by 2^-80.
    assert square == np.float32(1 + 2.0**-11) + (one_ulp - 1)
    down = ops.fma(_f32(tie), _f32(tie), _f32(-(2.0**-80)))[0]
    assert down == np.float32(1 + 2.0**-11)


@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize("group", [32, 64, 128])
def test_activation_codes_are_nearest_and_span_the_range(bits: int, group: int) -> None:
    a = _normal(5, 256) * np.float32(3)
    a[2, :group] = 0
    codes, scale = ops.quantize_activations(a, bits, group)
    grouped = codes.reshape(5, -1, group)
    largest = np.abs(grouped).max(axis=2)
    assert largest[2, 0] == 0
    assert scale[2, 0] == 0
    largest[2, 0] = ops.LARGEST_CODE[bits]
    assert (largest == ops.LARGEST_CODE[bits]).all()
    error = np.abs(grouped * scale[:, :, None] - a.reshape(5, -1, group))
    assert (error <= scale[:, :, None] * 0.5001).all()


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_tiny_and_huge_groups_stay_finite(bits: int) -> None:
    a = np.zeros((1, 64), dtype=np.float32)
    a[0, :32], a[0, 32:] = 1e-42, 1e38
    codes, scale = ops.quantize_activations(a, bits, 32)
    assert (codes[0, :32] == 0).all()
    assert (codes[0, 32:] == ops.LARGEST_CODE[bits]).all()
    assert np.isfinite(scale).all()


@pytest.mark.parametrize("with_offset", [False, True])
@pytest.mark.parametrize("act_bits", [4, 8, 16])
def test_quantized_linear_is_the_product_of_what_codes_stand_for(
    with_offset: bool, act_bits: int
) -> None:
    rng = _rng()
    codes = rng.integers(-136, 120, (7, 128)).astype(np.int16)
    scale = rng.uniform(0.01, 0.02, (7, 4)).astype(np.float32)
    offset = rng.standard_normal((7, 4)).astype(np.float32) if with_offset else None
    x, x_scale = ops.quantize_activations(_normal(3, 128), act_bits, 32)
    weights = codes.astype(np.float64) * np.repeat(scale, 32, axis=1)
    if offset is not None:
        weights += np.repeat(offset, 32, axis=1)
    expected = (x * np.repeat(x_scale.astype(np.float64), 32, axis=1)) @ weights.T
    out = ops.linear_planes(codes, scale, offset, x, x_scale)
    assert relative_error(out, expected.astype(np.float32)) <= 1e-6


def test_integer_sums_of_the_largest_codes_are_exact() -> None:
    codes = np.full((1, 128), -136, dtype=np.int16)
    x = np.full((1, 128), 32512, dtype=np.int32)
    one = np.ones((1, 1), dtype=np.float32)
    assert ops.linear_planes(codes, one, None, x, one)[0, 0] == np.float32(-136 * 32512 * 128)


def test_linear_rows_do_not_depend_on_their_company() -> None:
    rng = _rng()
    codes = rng.integers(-8, 8, (33, 64)).astype(np.int16)
    scale = rng.uniform(0.5, 1, (33, 2)).astype(np.float32)
    x, x_scale = ops.quantize_activations(_normal(9, 64), 16, 32)
    values, weights = _normal(9, 64), _normal(33, 64, seed=1)
    together = ops.linear_planes(codes, scale, None, x, x_scale), ops.linear_dense(weights, values)
    for m in range(9):
        row = slice(m, m + 1)
        alone = ops.linear_planes(codes, scale, None, x[row], x_scale[row])
        assert alone.tobytes() == together[0][row].tobytes()
        assert ops.linear_dense(weights, values[row]).tobytes() == together[1][row].tobytes()


def test_dense_linear_is_the_matrix_product() -> None:
    w, x = _normal(19, 96), _normal(5, 96, seed=1)
    expected = (x.astype(np.float64) @ w.T.astype(np.float64)).astype(np.float32)
    assert relative_error(ops.linear_dense(w, x), expected) <= 5e-7


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_narrowing_inverts_widening_for_every_bit_pattern(dtype: str) -> None:
    bits = np.arange(1 << 16).astype(np.uint16)
    values = ops.widen(bits, dtype)
    finite = np.isfinite(values)
    assert (ops.narrow(values, dtype)[finite] == bits[finite]).all()
    assert np.isnan(ops.widen(ops.narrow(values[np.isnan(values)], dtype), dtype)).all()


@given(x=floats)
def test_bf16_is_the_nearest_with_ties_to_even(x: float) -> None:
    if abs(x) > 3.38e38:
        return
    bits = int(ops.narrow(_f32(x), "bf16")[0])
    around = np.array([max(bits - 1, bits & 0x8000), bits, min(bits + 1, bits | 0x7FFF)], np.uint16)
    distance = [abs(Fraction(float(v)) - Fraction(x)) for v in ops.widen(around, "bf16")]
    assert distance[1] == min(distance)
    if distance.count(distance[1]) > 1 and len(set(around.tolist())) == 3:
        assert bits & 1 == 0


def test_rope_turns_pairs_half_a_head_apart_by_position_times_frequency() -> None:
    frequencies = _f32(1.0, 0.25)
    cos, sin = ops.rope_angles(np.array([0, 3], np.int32), frequencies)
    x = np.zeros((2, 1, 4), dtype=np.float32)
    x[:, 0, :2] = 1
    turned = ops.rope(x, cos, sin)
    assert (turned[0] == x[0]).all()
    expected = [np.cos(3), np.cos(0.75), np.sin(3), np.sin(0.75)]
    assert np.allclose(turned[1, 0], expected, atol=1e-7)


@pytest.mark.parametrize(
    ("first", "last"), [(0, 0), (0, 255), (0, 256), (3, 700), (250, 260), (512, 520)]
)
def test_attention_is_softmax_over_the_row_s_own_positions(first: int, last: int) -> None:
    queries = _normal(2, 3, 16)
    keys, values = _normal(2, 16, 800, seed=1), _normal(2, 800, 16, seed=2)
    for outside in (slice(0, first), slice(last + 1, None)):
        keys[:, :, outside] = np.nan
        values[:, outside] = np.nan
    seen = slice(first, last + 1)
    scores = np.einsum("hrd,hdc->hrc", queries.astype(np.float64), keys[:, :, seen])
    weights = np.exp(scores - scores.max(axis=2, keepdims=True))
    weights /= weights.sum(axis=2, keepdims=True)
    expected = np.einsum("hrc,hcd->hrd", weights, values[:, seen]).astype(np.float32)
    assert relative_error(ops.attend(queries, keys, values, first, last), expected) <= 1e-6


def test_norm_and_silu_match_float64() -> None:
    x, w = _normal(4, 64) * np.float32(10), _normal(64, seed=1)
    wide = x.astype(np.float64)
    norm = wide / np.sqrt((wide**2).mean(axis=1, keepdims=True) + 1e-5) * w
    assert relative_error(rms_norm(x, w, 1e-5), norm.astype(np.float32)) <= 3e-7
    silu = wide / (1 + np.exp(-wide)) * wide[::-1]
    assert relative_error(ops.silu_mul(x, x[::-1]), silu.astype(np.float32)) <= 3e-7
    assert ops.silu_mul(_f32(-1e4), _f32(1))[0] == 0
