"""QuaRot's rotations: any size has one, and the rotated model is the source."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from halfbyte.config import Level
from halfbyte.errors import ModelError
from halfbyte.formats.transforms import Rotation
from halfbyte.quantize.rotations import across_heads, along_row, rotate_model, rotated
from halfbyte.runtime import reference_ops as ops
from tests.support.runtimes import all_logits, build, random_tokens, relative_error
from tests.support.tiny_models import CONFIGS, Kind, make

# Hidden and MLP sizes of published models -> core, its rule, block.
SIZES = {
    576: (36, "paley-2", 16),
    896: (28, "paley-2", 32),
    1536: (12, "paley-1", 128),
    3072: (12, "paley-1", 256),
    4096: (8, "sylvester", 512),
    4864: (76, "paley-2", 64),
    5632: (44, "paley-1", 128),
    8960: (140, "paley-1", 64),
    9728: (76, "paley-2", 128),
    11008: (43, "dct", 256),
    13824: (108, "paley-1", 128),
    14336: (28, "paley-2", 512),
    18944: (148, "paley-2", 128),
    25600: (200, "paley-1", 128),
    28672: (28, "paley-2", 1024),
    29568: (924, "paley-2", 32),
}
HEADS = {9: "dct", 12: "paley-1", 14: "dct", 16: "sylvester", 28: "paley-2", 32: "sylvester"}


@pytest.mark.parametrize("size", SIZES)
def test_sizes_of_published_models_are_mixed_as_a_whole(size: int) -> None:
    rotation = along_row(size)
    assert (rotation.core, rotation.kind, rotation.block) == SIZES[size]
    assert rotation.span == size
    spike = np.zeros((1, size), np.float32)
    spike[0, size // 3] = 1
    spread = np.abs(rotated(spike, rotation))
    # one outlier channel ends up in every one: equally, or for a DCT within sqrt(2)
    bound = np.sqrt((1 if rotation.kind != "dct" else 2) / size)
    assert spread.max() <= bound * (1 + 1e-5)


def test_every_multiple_of_16_has_a_rotation_that_fits() -> None:
    for size in range(16, 40_000, 16):
        assert size % along_row(size).span == 0
    assert along_row(16 * 1031) == Rotation(1, "sylvester", 16)  # no rule has 1031 or 2062
    with pytest.raises(ModelError):
        along_row(24)


def test_heads_are_mixed_with_each_other() -> None:
    for heads, kind in HEADS.items():
        assert across_heads(heads, 64) == Rotation(heads, kind, stride=64)
    assert across_heads(1, 64) is None


@pytest.mark.parametrize("rotation", [along_row(576), along_row(11008), across_heads(9, 64)])
def test_weights_and_inputs_are_rotated_alike(rotation: Rotation) -> None:
    rows = np.random.default_rng(0).standard_normal((3, rotation.span)).astype(np.float32)
    assert relative_error(rotated(rows, rotation), ops.rotate(rows, rotation)) <= 1e-6


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("kind", ["reference", "native-scalar"])
def test_the_rotated_model_gives_the_logits_of_its_source(config: str, kind: str) -> None:
    """At f32 with f32 KV: float32 sums in another order, within 2e-5 of all logits."""
    source = make(CONFIGS[config], Kind(dense="f32"))
    model = rotate_model(source, seed=3)
    tokens = random_tokens(40, source.config.vocab_size)
    level = Level.parse("f32")
    wanted = all_logits(build("reference", source, kv_dtype="f32"), tokens, level)
    got = all_logits(build(kind, model, kv_dtype="f32"), tokens, level)
    assert relative_error(got, wanted) <= 2e-5
    assert not model.config.tied_head


def test_leaving_out_a_run_time_rotation_is_noticed() -> None:
    """The transforms are part of the function: without one, logits are others."""
    source = make(CONFIGS["wide"], Kind(dense="f32"))
    model = rotate_model(source)
    level, tokens = Level.parse("f32"), random_tokens(20)
    wanted = all_logits(build("reference", source), tokens, level)
    for part in ("heads", "hidden"):
        plain = _Without(model, part)
        assert relative_error(all_logits(build("reference", plain), tokens, level), wanted) > 0.1


class _Without:
    def __init__(self, model, part) -> None:  # type: ignore[no-untyped-def]
        self._model, self._part = model, part
        self.config, self.head_bits = model.config, model.head_bits
        self.vector = model.vector

    def matrix(self, name: str):  # type: ignore[no-untyped-def]
        matrix = self._model.matrix(name)
        dropped = getattr(self._model, self._part)
        return replace(matrix, transform=None) if matrix.transform == dropped else matrix


def test_outlier_channels_are_gone_from_the_residual_stream() -> None:
    source = make(CONFIGS["wide"], Kind(dense="f32"))
    embed = source.matrix("embed")
    spiky = np.asarray(embed.values, np.float32).copy()
    spiky[:, 7] *= 100
    loud = replace(source, matrices={**source.matrices, "embed": replace(embed, values=spiky)})
    before, after = spiky, rotate_model(loud).matrix("embed").values
    assert _kurtosis(before) > 20
    assert _kurtosis(np.asarray(after, np.float32)) < 4


def _kurtosis(x: np.ndarray) -> float:
    x = x.astype(np.float64)
    return float((x**4).mean() / (x**2).mean() ** 2)
