from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from halfbyte.formats.planes import (
    MAX_CODE,
    MIN_CODE,
    dequantize,
    join,
    pack,
    pack_pairs,
    split,
    unpack,
    unpack_pairs,
)
from halfbyte.formats.weights import Planes

CODES = np.arange(MIN_CODE, MAX_CODE + 1, dtype=np.int16)


def test_every_code_splits_into_two_nibbles_and_joins_back():
    hi, lo = split(CODES)
    for plane in (hi, lo):
        assert plane.min() == -8
        assert plane.max() == 7
    np.testing.assert_array_equal(join(hi, lo), CODES)


def test_hi_is_the_nearest_multiple_of_sixteen_within_four_bits():
    hi, _ = split(CODES)
    nearest = np.clip(np.floor(CODES / 16 + 0.5), -8, 7)
    np.testing.assert_array_equal(hi, nearest)


@given(
    arrays(
        np.int8,
        st.tuples(st.integers(1, 5), st.integers(1, 40).map(lambda x: 2 * x)),
        elements=st.integers(-8, 7),
    )
)
def test_unpack_inverts_pack(plane):
    packed = pack(plane)
    assert packed.shape == (plane.shape[0], plane.shape[1] // 2)
    np.testing.assert_array_equal(unpack(packed), plane)


@given(
    arrays(
        np.int8,
        st.tuples(st.integers(1, 5), st.integers(1, 20).map(lambda x: 4 * x)),
        elements=st.sampled_from([-8, -4, 0, 4]),
    )
)
def test_unpack_pairs_inverts_pack_pairs(plane):
    packed = pack_pairs(plane)
    assert packed.shape == (plane.shape[0], plane.shape[1] // 4)
    np.testing.assert_array_equal(unpack_pairs(packed), plane)


def test_the_lowest_pair_is_the_first_input():
    assert pack_pairs(np.array([[-8, -4, 0, 4]], dtype=np.int8)).tolist() == [[0b11_10_01_00]]


def test_low_nibble_is_the_even_input_and_holds_code_plus_eight():
    assert pack(np.array([[-8, 7, 0, 1]], dtype=np.int8)).tolist() == [[0xF0, 0x98]]


def test_dequantize_follows_the_definition_at_both_widths():
    rng = np.random.default_rng(0)
    codes = rng.integers(MIN_CODE, MAX_CODE + 1, (3, 128)).astype(np.int16)
    hi, lo = split(codes)
    scale = rng.normal(size=(3, 2)).astype(np.float16)
    offset = rng.normal(size=(3, 2)).astype(np.float32)
    planes = Planes(pack(hi), pack(lo), scale, offset, 64)
    wide_scale = np.repeat(scale.astype(np.float64), 64, axis=1)
    wide_offset = np.repeat(offset.astype(np.float64), 64, axis=1)
    eight = (wide_scale * (codes / 16) + wide_offset).astype(np.float32)
    four = (wide_scale * hi + wide_offset).astype(np.float32)
    np.testing.assert_array_equal(dequantize(planes, 8), eight)
    np.testing.assert_array_equal(dequantize(planes, 4), four)
    hi_only = Planes(planes.hi, None, scale, offset, 64)
    np.testing.assert_array_equal(dequantize(hi_only, 8), four)


def _with_unit(lo_bits):
    rng = np.random.default_rng(1)
    codes = rng.integers(MIN_CODE, MAX_CODE + 1, (5, 128)).astype(np.int16)
    codes[0], codes[1] = MIN_CODE, MAX_CODE
    if lo_bits == 2:
        codes &= ~3
    hi, lo = split(codes)
    scale = rng.integers(-127, 128, (5, 2)).astype(np.int8)
    offset = rng.integers(-127, 128, (5, 2)).astype(np.int8)
    scale[:2], offset[:2] = 127, -127
    unit = rng.normal(size=5).astype(np.float32)
    packed = pack(lo) if lo_bits == 4 else pack_pairs(lo)
    return codes, hi, Planes(pack(hi), packed, scale, offset, 64, unit=unit)


@pytest.mark.parametrize("lo_bits", [4, 2])
@pytest.mark.parametrize("offsets", [False, True])
def test_with_a_unit_the_product_with_it_is_the_only_rounding(lo_bits, offsets):
    codes, hi, planes = _with_unit(lo_bits)
    assert planes.lo_bits == lo_bits
    assert planes.has_full_lo
    if not offsets:
        planes = replace(planes, offset=None)
    scale, offset = (
        np.zeros(codes.shape) if array is None else np.repeat(array.astype(np.float64), 64, axis=1)
        for array in (planes.scale, planes.offset)
    )
    unit = planes.unit.astype(np.float64)[:, None]
    for bits, value in ((8, codes / 16), (4, hi)):
        expected = (unit * (scale * value + 8 * offset)).astype(np.float32)
        np.testing.assert_array_equal(dequantize(planes, bits), expected)


def test_some_rows_of_a_matrix_are_those_rows():
    _, _, planes = _with_unit(2)
    which = np.array([4, 0, 2], np.int32)
    np.testing.assert_array_equal(dequantize(planes.rows(which), 8), dequantize(planes, 8)[which])
