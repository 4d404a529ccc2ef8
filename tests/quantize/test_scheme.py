import numpy as np
import pytest

from halfbyte.errors import ArgumentError
from halfbyte.formats.planes import dequantize
from halfbyte.quantize.scheme import LINEAR_INPUTS, Grid, input_of, row_blocks
from halfbyte.quantize.schemes import scheme_named


def test_every_matrix_of_a_layer_reads_one_input():
    readers = [name for _, names in LINEAR_INPUTS for name in names]
    assert len(readers) == len(set(readers)) == 7
    assert [input_of(name) for name in ("attn.k", "mlp.up")] == ["attn.qkv", "mlp.gate_up"]


def test_row_blocks_cover_every_row_once_in_order():
    blocks = list(row_blocks(10, 3, most=10))
    assert blocks == [(0, 3), (3, 6), (6, 9), (9, 10)]
    assert list(row_blocks(2, 100, most=10)) == [(0, 1), (1, 2)]


def test_an_unknown_scheme_names_the_nearest_known_one():
    with pytest.raises(ArgumentError, match="did you mean 'rtn'"):
        scheme_named("rtm")


@pytest.mark.parametrize("name", ["rtn"])  # what looks at inputs has tests of its own
@pytest.mark.parametrize("planes", [8, 4])
def test_a_rounder_treats_rows_alike_in_any_block(name, planes):
    w = np.random.default_rng(0).standard_normal((12, 64)).astype(np.float32)
    scheme = scheme_named(name)
    assert scheme.name == name
    round_rows = scheme.rounder.fit(None, Grid(planes, 32))
    whole = dequantize(round_rows("w", w), planes)
    parts = [dequantize(round_rows("w", w[a:b]), planes) for a, b in ((0, 5), (5, 6), (6, 12))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert np.linalg.norm(whole - w) < (0.01 if planes == 8 else 0.12) * np.linalg.norm(w)
