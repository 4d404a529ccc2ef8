"""Every tensor type that the reference library reads, and how a file says that it is another."""

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from hypothesis import given
from hypothesis import strategies as st

from halfbyte.errors import SourceError
from halfbyte.formats.checkpoint import Checkpoint
from halfbyte.formats.planes import dequantize
from halfbyte.importers.convert import convert
from halfbyte.importers.gguf_blocks import EXACT_TYPES, to_f32, to_planes
from halfbyte.importers.gguf_source import GgufSource
from halfbyte.importers.gguf_types import is_readable, readable_names, row_bytes, types_by_id
from tests.importers.tiny_gguf import TinyGguf, random_blocks

READABLE = [kind for kind in Type if is_readable(kind.name)]
NOT_READABLE = [kind for kind in Type if kind not in READABLE]


def test_the_library_reads_what_is_imported():
    assert {"Q5_1", "IQ4_NL", "IQ4_XS", "Q2_K", "Q3_K", "IQ1_S", "TQ1_0", "MXFP4", "NVFP4"} <= set(
        readable_names()
    )
    assert len(readable_names()) == len(READABLE) > 24


@pytest.mark.parametrize("kind", READABLE)
def test_a_model_of_any_readable_type_is_imported(tmp_path, kind):
    tiny = TinyGguf(matrix_type=kind, outer_type=kind, hidden=256, inner=256)
    source = GgufSource(tiny.write(tmp_path / "m.gguf"))
    checkpoint = Checkpoint.open(convert(source, tmp_path / "c"))
    name = "layers.1.mlp.down"
    stored = tiny.values["blk.1.ffn_down.weight"]
    np.testing.assert_array_equal(source.rows(name, 0, 256), stored)
    got = dequantize(checkpoint.matrix(name), 8)
    exact = {4: 4, 8: 8}.get(next((p for p, k in EXACT_TYPES.items() if kind.name in k), 0))
    assert checkpoint.source["exact"] is (exact is not None)
    assert checkpoint.source["planes"] == (exact or 8)
    if exact:
        np.testing.assert_array_equal(got, stored)
    assert np.linalg.norm(got - stored) < 0.015 * np.linalg.norm(stored)


@pytest.mark.parametrize("kind", NOT_READABLE)
def test_a_type_that_is_not_read_is_told_from_damage(tmp_path, kind):
    path = TinyGguf(outer_type=Type.F32).write(tmp_path / "m.gguf")
    _retype(path, "token_embd.weight", kind)
    with pytest.raises(SourceError, match=f"{kind.name}, which is not supported") as caught:
        GgufSource(path)
    assert "whole" in caught.value.fix


@pytest.mark.parametrize("type_id", [4, 5, 31, 200, (1 << 32) - 1])
def test_a_type_that_nobody_knows_may_be_new_or_damage(tmp_path, type_id):
    assert type_id not in types_by_id()
    path = TinyGguf(outer_type=Type.F32).write(tmp_path / "m.gguf")
    _retype(path, "token_embd.weight", type_id)
    with pytest.raises(SourceError, match=rf"type {type_id}, which gguf .* does not know"):
        GgufSource(path)


def _retype(path, name, type_id):
    """Write another type id into the entry of a matrix: name, dimensions, type, offset."""
    data = bytearray(path.read_bytes())
    at = data.index(name.encode()) + len(name) + 4 + 2 * 8
    data[at : at + 4] = int(type_id).to_bytes(4, "little")
    path.write_bytes(data)


@pytest.mark.parametrize("kind", ["TQ1_0", "TQ2_0", "IQ4_NL", "MXFP4"])
@given(seed=st.integers(0, 1 << 32))
def test_grids_that_fit_have_the_file_s_values(kind, seed):
    raw = random_blocks(np.random.default_rng(seed), (3, 512), Type[kind])
    planes = to_planes(raw, kind)
    assert planes is not None
    assert (planes.lo is None) == (kind in EXACT_TYPES[4])
    np.testing.assert_array_equal(dequantize(planes, 8), to_f32(raw, kind))


@pytest.mark.parametrize(
    ("kind", "scale"),
    [
        ("TQ1_0", np.float16(np.inf)),
        ("TQ2_0", np.float16(np.nan)),
        ("IQ4_NL", np.float16(5000)),
        ("IQ4_NL", np.float16(np.nan)),
        ("MXFP4", np.uint8(127 + 16)),
        ("MXFP4", np.uint8(255)),
        ("MXFP4", np.uint8(127 - 25)),
        ("MXFP4", np.uint8(0)),
    ],
)
def test_scales_that_halves_cannot_hold_are_not_exact(kind, scale):
    raw = random_blocks(np.random.default_rng(0), (2, 256), Type[kind])
    raw[1, -2:] = raw[1, :2] = 0x11
    at = slice(-2, None) if kind.startswith("TQ") else slice(0, scale.nbytes)
    raw[1, at] = np.frombuffer(scale.tobytes(), np.uint8)
    assert to_planes(raw, kind) is None


@pytest.mark.parametrize("exponent", [127 - 24, 127 + 15])
def test_the_ends_of_half_precision_hold_mxfp4(exponent):
    raw = random_blocks(np.random.default_rng(0), (2, 256), Type.MXFP4)
    raw.reshape(-1, 17)[:, 0] = exponent
    np.testing.assert_array_equal(dequantize(to_planes(raw, "MXFP4"), 8), to_f32(raw, "MXFP4"))


def test_a_block_of_zeros_fits_whatever_its_scale(tmp_path):
    raw = np.zeros((1, row_bytes("MXFP4", 64)), np.uint8)
    raw[0, 0] = 1
    assert not dequantize(to_planes(raw, "MXFP4"), 8).any()


def test_layers_on_a_grid_are_exact_beside_an_outer_matrix_that_is_not(tmp_path):
    tiny = TinyGguf(matrix_type=Type.IQ4_NL, outer_type=Type.Q6_K, hidden=256, inner=256)
    checkpoint = Checkpoint.open(convert(tiny.write(tmp_path / "m.gguf"), tmp_path / "c"))
    method = "exact, except re-quantized (round to nearest): embed, head"
    assert checkpoint.source["method"] == method
    assert checkpoint.has_lo("embed")
    got = dequantize(checkpoint.matrix("layers.0.attn.o"), 8)
    np.testing.assert_array_equal(got, tiny.values["blk.0.attn_output.weight"])


def test_an_outer_matrix_of_four_bits_gets_its_second_plane_beside_layers_of_eight(tmp_path):
    path = TinyGguf(matrix_type=Type.Q8_0, outer_type=Type.Q4_0).write(tmp_path / "m.gguf")
    checkpoint = Checkpoint.open(convert(path, tmp_path / "c"))
    assert checkpoint.has_lo("embed")
    assert checkpoint.source["planes"] == 8


def test_a_factor_beside_a_matrix_is_part_of_its_values(tmp_path):
    """NVFP4 files have one: their block scales reach no further than 448."""
    factor = {"blk.0.ffn_up.scale": np.array([0.3], np.float32)}
    ignored = {"blk.0.ffn_up.input_scale": np.array([7.0], np.float32)}
    tiny = TinyGguf(matrix_type=Type.NVFP4, hidden=64, inner=64, extra=factor | ignored)
    source = GgufSource(tiny.write(tmp_path / "m.gguf"))
    wanted = tiny.values["blk.0.ffn_up.weight"] * np.float32(0.3)
    np.testing.assert_array_equal(source.rows("layers.0.mlp.up", 0, 64), wanted)
    np.testing.assert_array_equal(source.matrix("layers.0.mlp.up").values, wanted)
    exact = TinyGguf(matrix_type=Type.Q8_0, inner=64, extra=factor).write(tmp_path / "e.gguf")
    assert GgufSource(exact).natural is None
    one = TinyGguf(matrix_type=Type.Q8_0, extra={"blk.0.ffn_up.scale": np.ones(1, np.float32)})
    assert GgufSource(one.write(tmp_path / "one.gguf")).natural == (8, 32)


@pytest.mark.parametrize("bad", [np.ones(2, np.float32), np.array([np.nan], np.float32)])
def test_a_factor_that_is_no_number_is_refused(tmp_path, bad):
    path = TinyGguf(extra={"blk.0.ffn_up.scale": bad}).write(tmp_path / "m.gguf")
    with pytest.raises(SourceError, match=r"blk\.0\.ffn_up\.scale"):
        GgufSource(path)


def test_random_blocks_are_finite_and_ordinary():
    for kind in READABLE:
        values = to_f32(random_blocks(np.random.default_rng(1), (2, 512), kind), kind.name)
        assert np.isfinite(values).all()
        assert 1e-4 < np.abs(values).max() < 1e3, kind
