"""A checkpoint that was written once, when version 4 was new. It must load, unchanged, forever."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from halfbyte.errors import FormatError
from halfbyte.formats.checkpoint import Checkpoint
from halfbyte.formats.manifest import FORMAT_VERSION, MANIFEST_NAME
from halfbyte.formats.names import expected_tensors
from halfbyte.formats.planes import dequantize, low_codes, unpack
from halfbyte.formats.weights import OFFSET_STEP
from halfbyte.formats.writer import CheckpointWriter
from tests.formats.test_checkpoint import edit_manifest, edit_tensors
from tests.formats.test_format_v1 import digests
from tests.formats.tiny import CONFIG, random_planes, with_unit, write_checkpoint

DIRECTORY = Path(__file__).parents[1] / "data" / "format-v4"
EXPECTED = {
    "vectors": "6b50a4673561d3efa000a8fe339b3eecd2fa9867c5904170243b2ee1e0ee0998",
    "4 bits": "0bcdcc5e382452ddfdc6a0945c1d0acf0f5f693cedc823446081e93318e749cb",
    "8 bits": "9d72f65ee74e6cf00a5ceb5d3162008cde1b300b8f94715e892c27af535bb02a",
}


def test_version_4_loads_forever():
    checkpoint = Checkpoint.open(DIRECTORY)
    assert checkpoint.manifest.version == 4
    assert checkpoint.matrix("embed").lo_bits == 2
    assert checkpoint.has_lo("embed")
    assert checkpoint.matrix("layers.0.mlp.down").offset.dtype == np.int8
    assert digests(checkpoint) == EXPECTED


def test_units_and_small_integers_are_read_back_bit_for_bit(tmp_path):
    source = Checkpoint.open(DIRECTORY)
    with CheckpointWriter(tmp_path / "c") as writer:
        for name, shape in expected_tensors(source.config):
            if len(shape) == 1:
                writer.add_vector(name, source.vector(name))
            else:
                writer.add_matrix(name, source.matrix(name))
        again = Checkpoint.open(
            writer.finish(source.config, group_size=32, head_bits={4: 8, 8: 8}, source={})
        )
    assert digests(again) == EXPECTED
    for name in ("embed", "layers.1.attn.q", "layers.1.mlp.down"):
        for part, array in source.matrix(name).arrays.items():
            np.testing.assert_array_equal(again.matrix(name).arrays[part], array, strict=True)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("name", ["embed", "layers.0.mlp.gate", "layers.0.mlp.down"])
def test_one_product_with_the_unit_is_the_only_rounding(name, bits):
    planes = Checkpoint.open(DIRECTORY).matrix(name)
    codes = unpack(planes.hi).astype(np.float64)
    if bits == 8 and planes.lo is not None:
        codes += low_codes(planes) / 16
    whole = codes * np.repeat(planes.scale.astype(np.float64), 32, axis=1)
    if planes.offset is not None:
        whole += OFFSET_STEP * np.repeat(planes.offset.astype(np.float64), 32, axis=1)
    assert (whole == whole.astype(np.float32)).all()
    want = whole.astype(np.float32) * planes.unit[:, None]
    np.testing.assert_array_equal(dequantize(planes, bits), want)


def test_a_kept_file_with_units_makes_version_4(tmp_path):
    rng = np.random.default_rng(0)
    kept = tmp_path / "kept"
    with CheckpointWriter(tmp_path / "c", keep_in=kept) as writer:
        writer.add_matrix("embed", with_unit(rng, random_planes(rng, (64, 64))))
        writer.flush()
    with CheckpointWriter(tmp_path / "c", keep_in=kept) as writer:
        for name, shape in expected_tensors(CONFIG):
            if len(shape) == 1:
                writer.add_vector(name, np.ones(shape, np.float32))
            elif not writer.has(name):
                writer.add_matrix(name, random_planes(rng, shape))
        dest = writer.finish(CONFIG, group_size=32, head_bits={4: 4, 8: 8}, source={})
    assert Checkpoint.open(dest).manifest.version == 4


def older(directory):
    edit_manifest(directory, format=3)


def without_unit(directory):
    edit_tensors(directory, "embed.safetensors", lambda tensors: tensors.pop("embed.unit"))


def half_scales(tensors):
    dtype, codes = tensors["embed.scale"]
    assert dtype == "I8"
    tensors["embed.scale"] = ("F16", codes.astype(np.float16))


def bad_unit(value):
    def change(tensors):
        unit = tensors["embed.unit"][1].copy()
        unit[3] = value
        tensors["embed.unit"] = ("F32", unit)

    return change


FAULTS = [
    ("wrong-shape", older),
    ("wrong-shape", without_unit),
    ("wrong-dtype", lambda d: edit_tensors(d, "embed.safetensors", half_scales)),
    ("not-finite", lambda d: edit_tensors(d, "embed.safetensors", bad_unit(np.nan))),
    ("not-finite", lambda d: edit_tensors(d, "embed.safetensors", bad_unit(np.inf))),
]


@pytest.mark.parametrize(("fault", "break_it"), FAULTS)
def test_damage_to_units_has_its_name(tmp_path, fault, break_it):
    dest = write_checkpoint(tmp_path / "c", units=True)
    assert json.loads((dest / MANIFEST_NAME).read_text())["format"] == 4
    break_it(dest)
    with pytest.raises(FormatError) as caught:
        Checkpoint.open(dest).matrix("embed")
    assert caught.value.name == fault


def test_two_bits_of_lo_need_a_unit(tmp_path):
    def without(tensors):
        lo = tensors["embed.lo"][1]
        tensors["embed.lo"] = ("U8", np.ascontiguousarray(lo[:, : lo.shape[1] // 2]))

    dest = write_checkpoint(tmp_path / "c")
    edit_manifest(dest, format=4)
    edit_tensors(dest, "embed.safetensors", without)
    with pytest.raises(FormatError, match=r"embed\.lo"):
        Checkpoint.open(dest)


def test_rows_of_a_matrix_are_a_matrix():
    planes = Checkpoint.open(DIRECTORY).matrix("embed")
    ids = np.array([5, 0, 5], np.int32)
    some = planes.rows(ids)
    np.testing.assert_array_equal(dequantize(some, 8), dequantize(planes, 8)[ids])
    assert replace(some, transform=None).lo_bits == 2


def test_every_version_to_the_newest_has_a_page_and_a_checkpoint_that_loads():
    page = Path(__file__).parents[2] / "docs" / "format.md"
    assert page.read_text().startswith(f"# Checkpoint format, versions 1 to {FORMAT_VERSION}\n")
    kept = [Checkpoint.open(path).manifest.version for path in DIRECTORY.parent.glob("format-v*")]
    assert sorted(kept) == list(range(1, FORMAT_VERSION + 1))
