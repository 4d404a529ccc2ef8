import numpy as np
import pytest

from halfbyte.calibration.moments import Moments
from halfbyte.quantize.scheme import InputDetail

RNG = np.random.default_rng(8)


@pytest.mark.parametrize("cut", [1, 5, 11])
def test_rows_in_parts_are_rows_at_once(cut):
    rows = RNG.standard_normal((12, 7)).astype(np.float32)
    parts, whole = Moments(InputDetail.SECOND_MOMENTS), Moments(InputDetail.SECOND_MOMENTS)
    parts.add(rows[:cut])
    parts.add(rows[cut:])
    whole.add(rows)
    for name in ("rows", "largest", "mean_abs", "mean_square", "second_moments"):
        np.testing.assert_allclose(
            getattr(parts.result(), name), getattr(whole.result(), name), rtol=1e-5, atol=1e-6
        )


def test_a_row_that_counts_thrice_is_as_three_in_squares_and_one_in_sizes():
    rows = RNG.standard_normal((4, 5)).astype(np.float32)
    counted, repeated = Moments(InputDetail.SECOND_MOMENTS), Moments(InputDetail.SECOND_MOMENTS)
    counted.add(rows, np.array([1, 3, 1, 1], np.float32))
    repeated.add(rows[[0, 1, 1, 1, 2, 3]])
    got, wanted = counted.result(), repeated.result()
    for name in ("mean_square", "second_moments"):
        np.testing.assert_allclose(
            4 * getattr(got, name), 6 * getattr(wanted, name), rtol=1e-5, atol=1e-6
        )
    np.testing.assert_allclose(got.mean_abs, np.abs(rows).mean(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(got.largest, np.abs(rows).max(axis=0))
