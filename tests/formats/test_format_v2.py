"""A checkpoint that was written once, when version 2 was new. It must load, unchanged, forever."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from halfbyte.errors import FormatError
from halfbyte.formats.checkpoint import Checkpoint
from halfbyte.formats.manifest import MANIFEST_NAME
from halfbyte.formats.names import SITES, site_of
from halfbyte.formats.tensor_file import write_tensor_file
from halfbyte.formats.transforms import Gather, Rotation
from tests.formats.test_format_v1 import digests
from tests.formats.tiny import write_checkpoint

DIRECTORY = Path(__file__).parents[1] / "data" / "format-v2"
EXPECTED = {
    "vectors": "0b362007253c4216151c65c0efcad3095631e59afbf170f0465ea029594f64fa",
    "4 bits": "8e90b20eb88b1ff58828fb45794b5c83480451046419754da0efabcedd522345",
    "8 bits": "9d22f3463cbd9c0da8689ebb85c906909f9222f95e6efbe8127c6e9b2fcf685a",
}
GATHERS = "996ed4dd18276ce8a59ea44a56757742ea5d10c6745b05718183b0bf9b800d0e"


def gather_digest(checkpoint: Checkpoint) -> str:
    digest = hashlib.sha256()
    for layer in range(checkpoint.config.num_layers):
        for name in ("attn.q", "mlp.up"):
            transform = checkpoint.matrix(f"layers.{layer}.{name}").transform
            assert isinstance(transform, Gather)
            digest.update(transform.indices.astype("<i4").tobytes())
    return digest.hexdigest()


def test_version_2_loads_forever():
    checkpoint = Checkpoint.open(DIRECTORY)
    assert checkpoint.manifest.version == 2
    assert checkpoint.wide_groups == dict.fromkeys(SITES, 1)
    assert checkpoint.matrix("layers.1.attn.o").transform == Rotation(3, "dct", stride=32)
    assert checkpoint.matrix("layers.1.mlp.down").transform == Rotation(12, "paley-1", 16)
    assert checkpoint.matrix("layers.0.mlp.gate").transform == (
        checkpoint.matrix("layers.0.mlp.up").transform
    )
    # `lo` of the whole matrix, and of the wide groups alone
    assert checkpoint.has_lo("layers.0.attn.k")
    assert not checkpoint.has_lo("layers.0.attn.q")
    assert checkpoint.matrix("layers.0.attn.q").lo.shape == (96, 16)
    for name in ("embed", "layers.0.attn.q"):
        assert checkpoint.matrix(name).wide_groups == (1 if site_of(name) else 0)
    assert checkpoint.matrix("embed").transform is None
    assert digests(checkpoint) == EXPECTED
    assert gather_digest(checkpoint) == GATHERS


def test_a_checkpoint_that_needs_no_version_2_is_version_1(tmp_path):
    manifest = json.loads((write_checkpoint(tmp_path / "c") / MANIFEST_NAME).read_text())
    assert manifest["format"] == 1
    assert not {"transforms", "wide_groups"} & set(manifest)


@pytest.mark.parametrize("value", [None, -1, 64], ids=["twice", "negative", "past the end"])
def test_a_reordering_that_repeats_or_leaves_the_inputs_is_refused(tmp_path, value):
    directory = tmp_path / "c"
    shutil.copytree(DIRECTORY, directory)
    path = directory / "layer-000.safetensors"
    dtypes = {"int32": "I32", "uint8": "U8", "float16": "F16", "float32": "F32"}
    tensors = {k: (dtypes[v.dtype.name], v.copy()) for k, v in load_file(path).items()}
    indices = tensors["layers.0.attn.qkv.gather"][1]
    indices[5] = indices[6] if value is None else value
    write_tensor_file(path, tensors)
    with pytest.raises(FormatError, match=r"bad-gather: layers\.0\.attn\.qkv\.gather"):
        Checkpoint.open(directory).matrix("layers.0.attn.v")
