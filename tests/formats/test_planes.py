import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from halfbyte.formats.planes import MAX_CODE, MIN_CODE, dequantize, join, pack, split, unpack
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
