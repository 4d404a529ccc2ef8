"""Scales and offsets as they are stored, and what they gain."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfbyte.formats.planes import dequantize, low_codes
from halfbyte.quantize.gptq import Gptq
from halfbyte.quantize.rtn import RoundToNearest
from halfbyte.quantize.scales import SCALE_FORMS, StoredScales
from halfbyte.quantize.scheme import Grid
from tests.quantize.test_gptq import inputs, output_error, statistics, weights

ROUNDERS = [RoundToNearest(), Gptq()]


def rounded(rounder, grid, w, seen):
    return rounder.fit(seen, grid)("w", w)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    size=st.sampled_from([1e-30, 1e-4, 1.0, 3e4]),
    form=st.sampled_from(SCALE_FORMS),
    planes=st.sampled_from([4, 8]),
)
def test_what_is_tried_can_be_stored(seed, size, form, planes):
    rng = np.random.default_rng(seed)
    rows = (size * rng.standard_t(3, (6, 128))).astype(np.float32)
    rows[0] = 0
    rows[1, :64] = 0
    scales = StoredScales.of(rows, form, 32)
    groups = rows.reshape(6, 4, 32)
    high, low = groups[:, 1].max(axis=1), groups[:, 1].min(axis=1)
    tried, shifts = scales.tries(high, low, (0.8, 1.0, 1.05), planes)
    stored, offsets = scales.stored(tried, shifts)
    unit = np.float32(1) if scales.unit is None else scales.unit
    np.testing.assert_allclose(stored.T.astype(np.float32) * unit, tried, rtol=1e-6)
    if form == "int8+offset":
        np.testing.assert_allclose(offsets.T.astype(np.float32) * unit * 8, shifts, rtol=1e-6)
    else:
        assert offsets is None
        assert not shifts.any()
    assert not tried[:, 0].any()  # a row of zeros
    if form != "f16" or size > 1e-7:
        assert (tried[:, 2:] != 0).all()


@pytest.mark.parametrize("rounder", ROUNDERS, ids=["rtn", "gptq"])
@pytest.mark.parametrize("planes", [4, 8])
def test_integer_scales_cost_next_to_nothing_and_offsets_gain(rounder, planes):
    w, rows = weights(inputs=512), inputs(inputs=512)
    seen = statistics(rows)
    found = {f: rounded(rounder, Grid(planes, 32, scales=f), w, seen) for f in SCALE_FORMS}
    error = {form: output_error(planes_, 4, w, rows) for form, planes_ in found.items()}
    assert error["int8"] < 1.03 * error["f16"]
    assert error["int8+offset"] < 0.95 * error["f16"]
    stored = {form: p.scale.nbytes for form, p in found.items()}
    assert stored["int8"] * 2 == stored["f16"]
    assert found["int8+offset"].offset.nbytes == stored["int8"]
    if planes == 8:
        nested = {form: output_error(planes_, 8, w, rows) for form, planes_ in found.items()}
        assert nested["int8"] < 1.05 * nested["f16"]
        assert nested["int8+offset"] < 1.05 * nested["f16"]


@pytest.mark.parametrize("form", SCALE_FORMS)
def test_wide_groups_are_as_close_as_8_bits_in_every_form(form):
    w, rows = weights(), inputs()
    grid = Grid(4, 32, wide_groups=2, scales=form)
    planes = rounded(RoundToNearest(), grid, w, None)
    assert planes.lo.shape == (len(w), 32)
    assert (planes.offset is None) == (form != "int8+offset")
    difference = np.abs(dequantize(planes, 4) - w)
    assert difference[:, 64:].max() < 0.1 * difference[:, :64].max()
    fed = rounded(Gptq(), grid, w, statistics(rows))
    narrow = rounded(Gptq(), Grid(4, 32, scales=form), w, statistics(rows))
    assert output_error(fed, 4, w, rows) < 0.85 * output_error(narrow, 4, w, rows)


@pytest.mark.parametrize("rounder", ROUNDERS, ids=["rtn", "gptq"])
@pytest.mark.parametrize("form", ["int8", "int8+offset"])
def test_six_bits_are_sixteen_times_nearer_than_four(rounder, form):
    w, rows = weights(), inputs()
    seen = statistics(rows)
    six = rounded(rounder, Grid(8, 32, scales=form, lo_bits=2), w, seen)
    four = rounded(rounder, Grid(4, 32, scales=form), w, seen)
    assert six.lo.shape == (len(w), w.shape[1] // 4)
    assert set(np.unique(low_codes(six))) <= {-8, -4, 0, 4}
    assert output_error(six, 8, w, rows) < 0.4 * output_error(four, 4, w, rows)


@pytest.mark.parametrize("form", SCALE_FORMS)
def test_a_row_of_zeros_stays_one(form):
    w = weights()
    w[4] = 0
    planes = RoundToNearest().fit(None, Grid(8, 32, scales=form))("w", w)
    assert not dequantize(planes, 8)[4].any()
    assert np.isfinite(dequantize(planes, 4)).all()
