import numpy as np
import pytest

from halfbyte.errors import HalfbyteError, ModelError
from halfbyte.formats.planes import dequantize, join, split, unpack
from halfbyte.quantize.feedback import feedback_of
from halfbyte.quantize.gptq import Gptq
from halfbyte.quantize.rtn import RoundToNearest
from halfbyte.quantize.scheme import Grid, InputStatistics

INPUTS, OUTPUTS = 128, 48


def statistics(rows):
    second = (rows.T @ rows / len(rows)).astype(np.float32)
    size = np.abs(rows)
    square = np.diagonal(second).copy()
    return InputStatistics(len(rows), size.max(axis=0), size.mean(axis=0), square, second)


def inputs(seed=0, inputs=INPUTS):
    """Correlated rows whose channels differ in size, as activations are."""
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((600, 24)) @ rng.standard_normal((24, inputs))
    rows = 0.4 * mixed + rng.standard_normal((600, inputs))
    return (rows * np.exp(rng.standard_normal(inputs))).astype(np.float32)


def weights(seed=1, inputs=INPUTS):
    rng = np.random.default_rng(seed)
    return (0.02 * rng.standard_t(5, size=(OUTPUTS, inputs))).astype(np.float32)


def output_error(planes, bits, w, rows):
    difference = rows.astype(np.float64) @ (dequantize(planes, bits) - w).T
    return np.linalg.norm(difference) / np.linalg.norm(rows.astype(np.float64) @ w.T)


@pytest.mark.parametrize("by_size", [False, True])
@pytest.mark.parametrize("shrinkage", [0.0, 0.3])
def test_the_factors_are_those_of_the_shrunk_and_damped_moments(by_size, shrinkage):
    rows = inputs()
    seen = statistics(rows)
    feedback = feedback_of(seen, shrinkage=shrinkage, damping=0.01, by_size=by_size)
    upper = feedback.weights.astype(np.float64) + np.eye(INPUTS)
    assert (np.tril(feedback.weights) == 0).all()
    rebuilt = upper @ np.diag(feedback.costs.astype(np.float64)) @ upper.T
    damped = (1 - shrinkage) * seen.second_moments + shrinkage * np.diag(seen.mean_square)
    damped += 0.01 * seen.mean_square.mean() * np.eye(INPUTS)
    wanted = damped[np.ix_(feedback.order, feedback.order)]
    np.testing.assert_allclose(rebuilt, wanted, atol=1e-4 * np.abs(wanted).max())
    if by_size:
        assert (np.diff(seen.mean_square[feedback.order]) <= 0).all()


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("group", [32, 64])
def test_nested_codes_beat_round_to_nearest_at_both_levels(group, act_order):
    w, rows = weights(), inputs()
    gptq = Gptq(act_order=act_order, lo_weight=64).fit(statistics(rows), Grid(8, group))("w", w)
    plain = RoundToNearest().fit(None, Grid(8, group))("w", w)
    assert output_error(gptq, 4, w, rows) < 0.87 * output_error(plain, 4, w, rows)
    assert output_error(gptq, 8, w, rows) < output_error(plain, 8, w, rows)


def test_the_default_gains_at_both_levels():
    w, rows = weights(), inputs()
    gptq = Gptq().fit(statistics(rows), Grid(8, 32))("w", w)
    plain = RoundToNearest().fit(None, Grid(8, 32))("w", w)
    for bits, gain in ((4, 0.92), (8, 0.7)):
        assert output_error(gptq, bits, w, rows) < gain * output_error(plain, bits, w, rows)


def test_four_planes_beat_round_to_nearest_and_the_nested_half():
    w, rows = weights(), inputs()
    alone = Gptq().fit(statistics(rows), Grid(4, 32))("w", w)
    plain = RoundToNearest().fit(None, Grid(4, 32))("w", w)
    nested = Gptq().fit(statistics(rows), Grid(8, 32))("w", w)
    assert alone.lo is None
    error = output_error(alone, 4, w, rows)
    assert error < 0.65 * output_error(plain, 4, w, rows)
    assert error < output_error(nested, 4, w, rows)


def test_the_more_eight_bits_weigh_the_better_they_are_and_the_worse_four():
    w, seen, rows = weights(), statistics(inputs()), inputs()
    found = [Gptq(lo_weight=x).fit(seen, Grid(8, 32))("w", w) for x in (1, 16, 256, 1e6)]
    draft = [output_error(p, 4, w, rows) for p in found]
    target = [output_error(p, 8, w, rows) for p in found]
    assert draft == sorted(draft)
    assert target == sorted(target, reverse=True)


def test_codes_are_in_range_and_hi_is_the_rounded_code():
    w, seen = weights(), statistics(inputs())
    w[3, 40] = 1.0  # an outlier, so that a group is clipped or coarse
    planes = Gptq(lo_weight=1).fit(seen, Grid(8, 32))("w", w)
    hi, lo = unpack(planes.hi), unpack(planes.lo)
    again = split(join(hi, lo))
    np.testing.assert_array_equal(again[0], hi)
    np.testing.assert_array_equal(again[1], lo)


def test_without_correlation_every_weight_goes_to_its_nearest_code():
    w = weights()
    rows = np.eye(INPUTS, dtype=np.float32)
    planes = Gptq(damping=0).fit(statistics(rows), Grid(4, 32))("w", w)
    step = np.repeat(np.abs(planes.scale.astype(np.float32)), 32, axis=1)
    inside = np.abs(unpack(planes.hi)) < 7
    assert inside.mean() > 0.8
    assert (np.abs(dequantize(planes, 4) - w)[inside] <= 0.5001 * step[inside]).all()


def test_rows_are_independent():
    w, seen = weights(), statistics(inputs())
    round_rows = Gptq().fit(seen, Grid(8, 32))
    whole = dequantize(round_rows("w", w), 8)
    parts = [dequantize(round_rows("w", w[a:b]), 8) for a, b in ((0, 1), (1, 30), (30, OUTPUTS))]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=2e-3 * np.abs(w).max())


def test_inputs_never_seen_and_rows_of_zeros_do_no_harm():
    w, rows = weights(), inputs()
    rows[:, 10:20] = 0
    w[5] = 0
    planes = Gptq().fit(statistics(rows), Grid(8, 32))("w", w)
    values = dequantize(planes, 8)
    assert not values[5].any()
    # what no input reads is rounded all the same, for text unlike the calibration's
    assert np.abs(values - w)[:, 10:20].max() < 0.1 * np.abs(w).max()


def test_inputs_that_are_all_zero_are_refused():
    with pytest.raises(HalfbyteError, match="inputs that are all zero"):
        Gptq().fit(statistics(np.zeros((50, INPUTS), np.float32)), Grid(8, 32))


def test_weights_or_groups_that_cannot_be_are_refused_by_name():
    seen = statistics(inputs())
    w = weights()
    w[2, 3] = np.nan
    with pytest.raises(HalfbyteError, match=r"layers\.1\.attn\.q"):
        Gptq().fit(seen, Grid(8, 32))("layers.1.attn.q", w)
    with pytest.raises(ModelError, match="group size 128"):
        Gptq().fit(statistics(inputs(inputs=96)), Grid(8, 128))("w", weights(inputs=96))
