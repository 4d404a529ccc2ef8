import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfbyte import _native
from halfbyte.quantize.rounding_reference import round_group


def arguments(seed, group, rows, levels, candidates, spread, own_scales=False, shifted=False):
    rng = np.random.default_rng(seed)
    w = (spread * rng.standard_normal((group, rows))).astype(np.float32)
    goals = w + (0.1 * spread * rng.standard_normal((levels, group, rows))).astype(np.float32)
    feed = np.triu(0.3 * rng.standard_normal((group, group)), 1).astype(np.float32)
    costs = np.exp(rng.standard_normal(group)).astype(np.float32)
    fit = np.abs(goals).max(axis=(0, 1)) / 8
    scales = fit * np.exp(0.2 * rng.standard_normal((candidates, 1))) * rng.choice([-1, 1])
    scales = scales.astype(np.float16).astype(np.float32)
    scales[:, :1] = 0  # a group of zeros has scale 0
    scales = scales[:, None]
    if own_scales:
        scales = np.repeat(scales, group, axis=1) * np.arange(1, group + 1)[:, None] / np.float32(8)
    offsets = shifted * spread * rng.standard_normal(scales.shape)
    arrays = goals, feed, costs, scales, offsets
    return w, *(array.astype(np.float32) for array in arrays)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    group=st.sampled_from([1, 2, 32, 128]),
    rows=st.integers(1, 40),
    levels=st.sampled_from([1, 2]),
    candidates=st.integers(1, 6),
    lo_weight=st.sampled_from([0.0, 1.0, 64.0, 1e6]),
    spread=st.sampled_from([1e-4, 0.05, 30.0]),
    own_scales=st.booleans(),
    shifted=st.booleans(),
)
def test_native_rounding_is_the_twins_bit_for_bit(
    seed, group, rows, levels, candidates, lo_weight, spread, own_scales, shifted
):
    given_ = arguments(seed, group, rows, levels, candidates, spread, own_scales, shifted)
    native = _native.round_group(*given_, lo_weight)
    twin = round_group(*given_, lo_weight)
    for got, wanted in zip(native, twin, strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("field", range(6))
def test_shapes_that_do_not_belong_together_are_refused(field):
    given_ = list(arguments(0, 32, 8, 2, 3, 1.0))
    given_[field] = np.ascontiguousarray(given_[field][..., :-1])
    with pytest.raises(ValueError, match=r"group|goals|feed|scales|offsets"):
        _native.round_group(*given_, 1.0)
