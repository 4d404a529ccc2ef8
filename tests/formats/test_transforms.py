"""The matrices that rotations are made of, and what a transform refuses to be."""

import numpy as np
import pytest

from halfbyte.errors import ModelError
from halfbyte.formats import orthogonal
from halfbyte.formats.transforms import Gather, Rotation

# Orders that the sizes of published models call for, with the rule that has them.
KNOWN = {12: "paley-1", 20: "paley-1", 28: "paley-2", 36: "paley-2", 76: "paley-2", 108: "paley-1"}
KNOWN |= {140: "paley-1", 148: "paley-2", 924: "paley-2"}


@pytest.mark.parametrize("kind", orthogonal.KINDS)
def test_every_matrix_is_orthogonal_and_hadamard_ones_have_entries_of_one(kind):
    orders = [n for n in range(1, 300) if orthogonal.exists(kind, n)]
    assert len(orders) > 5
    for n in orders:
        entries = orthogonal.matrix(kind, n).astype(np.float64)
        if kind == "dct":
            np.testing.assert_allclose(entries @ entries.T, np.eye(n), atol=1e-6)
        else:
            assert (np.abs(entries) == 1).all()
            np.testing.assert_array_equal(entries @ entries.T, n * np.eye(n))


def test_rules_have_the_orders_published_models_call_for():
    for order, kind in KNOWN.items():
        assert orthogonal.exists(kind, order), order
    assert not orthogonal.exists("paley-1", 16)  # 15 is no prime
    assert not orthogonal.exists("paley-2", 24)  # 11 = 3 mod 4
    assert not orthogonal.exists("dct", 1025)
    assert not orthogonal.exists("dct", 0)


@pytest.mark.parametrize(
    "rotation",
    [
        Rotation(1, "sylvester", 128),
        Rotation(12, "paley-1", 16),
        Rotation(28, "paley-2", 32),
        Rotation(5, "dct", 16),
        Rotation(8, "sylvester", stride=16),
        Rotation(3, "dct", stride=32),
    ],
)
def test_a_rotation_is_orthogonal_once_scaled(rotation):
    hadamard = orthogonal.matrix("sylvester", rotation.block)
    whole = np.kron(rotation.matrix, hadamard).astype(np.float64) * rotation.scale
    np.testing.assert_allclose(whole @ whole.T, np.eye(rotation.order), atol=1e-6)


@pytest.mark.parametrize(
    "fields",
    [
        (3, "sylvester", 16, 1),
        (12, "paley-3", 16, 1),
        (12, "paley-1", 24, 1),
        (12, "paley-1", 8, 1),
        (12, "paley-1", 8192, 1),
        (12, "paley-1", 16, 16),
        (12, "paley-1", 1, 8),
        (0, "dct", 16, 1),
        (True, "sylvester", 16, 1),
        (1, ["sylvester"], 16, 1),
    ],
)
def test_a_rotation_no_rule_defines_is_refused_in_one_line(fields):
    with pytest.raises(ModelError) as caught:
        Rotation(*fields)
    assert "\n" not in str(caught.value)


def test_a_reordering_is_a_permutation():
    assert Gather(np.array([2, 0, 1], np.int32)) == Gather(np.array([2, 0, 1], np.int32))
    assert Gather(np.array([2, 0, 1], np.int32)) != Gather(np.array([2, 1, 0], np.int32))
    for indices in ([0, 0, 1], [0, 1, 3], [-1, 0, 1]):
        with pytest.raises(ModelError):
            Gather(np.array(indices, np.int32))
