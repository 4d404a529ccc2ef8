"""A checkpoint that was written once, when version 3 was new. It must load, unchanged, forever."""

from pathlib import Path

import pytest

from halfbyte.formats.checkpoint import Checkpoint
from halfbyte.formats.manifest import MANIFEST_NAME
from halfbyte.formats.names import SITES
from halfbyte.formats.writer import CheckpointWriter
from tests.formats.test_format_v1 import digests
from tests.formats.tiny import write_checkpoint

DIRECTORY = Path(__file__).parents[1] / "data" / "format-v3"
WIDE = {"attn.qkv": 1, "mlp.gate_up": 2, "mlp.down": 3}
EXPECTED = {
    "vectors": "5386bd32939cdd121b29fd47b501af1de78b49c872422e70b603901aec19617f",
    "4 bits": "1d1f19ba1d1df35040334e61c4006ac22f48bad690da2866af3b508c55674382",
    "8 bits": "847228c7f776320a164ea7a55280dad39f81feec6f1ceba3e8b730948ee08059",
}


def test_version_3_loads_forever():
    checkpoint = Checkpoint.open(DIRECTORY)
    assert checkpoint.manifest.version == 3
    assert checkpoint.wide_groups == WIDE
    for site, matrices in SITES.items():
        for name in matrices:
            matrix = checkpoint.matrix(f"layers.1.{name}")
            assert matrix.wide_groups == WIDE.get(site, 0)
            assert (matrix.lo is None) == (site == "attn.o")
            assert matrix.lo is None or matrix.lo.shape[1] == 16 * matrix.wide_groups
    assert digests(checkpoint) == EXPECTED


@pytest.mark.parametrize(
    ("wide", "version"),
    [({}, 1), (dict.fromkeys(SITES, 1), 2), ({"attn.o": 1}, 3), (dict.fromkeys(SITES, 2), 2)],
)
def test_the_smallest_version_that_is_enough_is_written(tmp_path, wide, version):
    dest = write_checkpoint(tmp_path / "c", wide=wide)
    assert f'"format": {version},' in (dest / MANIFEST_NAME).read_text()
    again = Checkpoint.open(dest)
    assert {site: again.wide_groups.get(site, 0) for site in SITES} == {
        site: wide.get(site, 0) for site in SITES
    }


def test_matrices_of_a_site_have_as_many_wide_groups(tmp_path):
    source = Checkpoint.open(DIRECTORY)
    with CheckpointWriter(tmp_path / "c") as writer:
        writer.add_matrix("layers.0.attn.q", source.matrix("layers.0.attn.q"))
        with pytest.raises(ValueError, match="another number of wide groups"):
            writer.add_matrix("layers.0.attn.k", source.matrix("layers.0.attn.o"))
