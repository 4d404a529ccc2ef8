"""Atom's order of inputs and its wide groups."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from halfbyte.config import Level, ModelConfig
from halfbyte.formats.names import SITES
from halfbyte.formats.planes import dequantize
from halfbyte.formats.weights import Dense, Planes
from halfbyte.quantize.atom import BySize
from halfbyte.quantize.gptq import Gptq
from halfbyte.quantize.rtn import RoundToNearest
from halfbyte.quantize.scheme import Grid, InputStatistics, input_of
from halfbyte.quantize.wide import round_wide_group
from halfbyte.runtime import reference_ops as ops
from tests.support.runtimes import all_logits, build, random_tokens, relative_error
from tests.support.tiny_models import CONFIGS, Kind, TinyWeights, make

RNG = np.random.default_rng(5)


def statistics_of(x: np.ndarray) -> InputStatistics:
    size = np.abs(x)
    return InputStatistics(
        rows=len(x),
        largest=size.max(axis=0),
        mean_abs=size.mean(axis=0),
        mean_square=np.square(x).mean(axis=0),
        second_moments=(x.T @ x / len(x)).astype(np.float32),
    )


def loud_inputs(inputs: int, rows: int = 256) -> np.ndarray:
    """A few channels, scattered, are 30 times the others."""
    sizes = np.ones(inputs)
    sizes[RNG.choice(inputs, 8, replace=False)] = 30
    return (RNG.standard_normal((rows, inputs)) * sizes).astype(np.float32)


@pytest.mark.parametrize("config", CONFIGS)
def test_the_reordered_model_gives_the_logits_of_its_source(config: str) -> None:
    """At f32 with f32 KV: the same products summed in another order, within 1e-5."""
    source = make(CONFIGS[config], Kind(dense="f32"))
    model = _reordered(source)
    tokens = random_tokens(40, source.config.vocab_size)
    level = Level.parse("f32")
    wanted, got = (
        all_logits(build("native-scalar", w, kv_dtype="f32"), tokens, level)
        for w in (source, model)
    )
    assert relative_error(got, wanted) <= 1e-5
    assert any(
        not np.array_equal(model.matrices[n].values, source.matrices[n].values)  # type: ignore[union-attr]
        for n in source.matrices
    )


def _reordered(source: TinyWeights) -> TinyWeights:
    """Every layer with its inputs in a random order."""
    matrices = dict(source.matrices)
    widths = {"attn.qkv": "attn.q", "attn.o": "attn.o", "mlp.gate_up": "mlp.up"}
    widths["mlp.down"] = "mlp.down"
    for i in range(source.config.num_layers):
        names = [name for site in SITES.values() for name in site]
        layer = {n: np.asarray(matrices[f"layers.{i}.{n}"].values) for n in names}  # type: ignore[union-attr]
        seen = {
            site: statistics_of(RNG.standard_normal((4, layer[n].shape[1])).astype(np.float32))
            for site, n in widths.items()
        }
        done = BySize()(layer, seen, dict.fromkeys(SITES, 32))
        assert set(done.gathers) == set(BySize().gathered)
        for n in names:
            gather = done.gathers.get(input_of(n))
            matrices[f"layers.{i}.{n}"] = Dense(done.layer[n], "f32", gather)
    return replace(source, matrices=matrices)


def test_wide_inputs_are_the_largest_and_come_last_the_others_descend() -> None:
    widths = {"attn.qkv": 64, "attn.o": 64, "mlp.gate_up": 64, "mlp.down": 128}
    seen = {site: statistics_of(loud_inputs(width)) for site, width in widths.items()}
    layer = {
        name: RNG.standard_normal((128 if site == "mlp.gate_up" else 64, widths[site]))
        for site, names in SITES.items()
        for name in names
    }
    wide = {"attn.qkv": 32, "attn.o": 32, "mlp.gate_up": 0, "mlp.down": 64}
    done = BySize()({n: v.astype(np.float32) for n, v in layer.items()}, seen, wide)
    for site, statistics in done.inputs.items():
        narrow, last = np.split(statistics.mean_square, [widths[site] - wide[site]])
        assert (np.diff(narrow) <= 0).all()
        assert (np.diff(last) >= 0).all()
        assert not len(last) or last.min() >= narrow.max()
        moments = statistics.second_moments
        assert moments is not None
        np.testing.assert_allclose(np.diag(moments), statistics.mean_square, rtol=1e-4)


def test_wide_inputs_are_whole_groups_and_at_most_a_quarter_of_a_row() -> None:
    wide = CONFIGS["wide"]  # narrowest rows: 128 inputs
    assert BySize().wide_groups(wide, 32) == dict.fromkeys(SITES, 1)
    large = _large()
    for group, count in ((32, 4), (64, 2), (128, 1)):
        assert BySize().wide_groups(large, group) == dict.fromkeys(SITES, count)


def _large() -> ModelConfig:
    wide = replace(CONFIGS["wide"], hidden_size=1536)
    return wide.with_attention(num_heads=24).with_feed_forward(size=8960)


def test_a_share_of_wide_inputs_is_a_share_of_every_row() -> None:
    config = _large()
    wanted = {"attn.qkv": 3, "attn.o": 3, "mlp.gate_up": 3, "mlp.down": 18}
    assert BySize(0.0625).wide_groups(config, 32) == wanted
    assert set(BySize(0.001).wide_groups(config, 128).values()) == {1}


@pytest.mark.parametrize("rounder", [RoundToNearest(), Gptq()])
@pytest.mark.parametrize("planes", [4, 8])
def test_wide_groups_store_lo_and_are_as_close_as_8_bits(
    rounder: RoundToNearest | Gptq, planes: int
) -> None:
    x, w = loud_inputs(256), RNG.standard_normal((32, 256)).astype(np.float32)
    got = rounder.fit(statistics_of(x), Grid(planes, 32, wide_groups=2))("m", w)
    assert got.lo is not None
    assert got.lo.shape == (32, 128 if planes == 8 else 32)
    assert got.wide_groups == 2
    error = dequantize(got, 4) - w
    if isinstance(rounder, RoundToNearest):
        assert np.abs(error[:, -64:]).max() < np.abs(error[:, :-64]).max() / 8
    np.testing.assert_array_equal(dequantize(got, 8)[:, -64:], dequantize(got, 4)[:, -64:])


@pytest.mark.parametrize("rounder", [RoundToNearest(), Gptq()])
def test_outlier_channels_cost_four_bits_less_when_sorted_and_wide(
    rounder: RoundToNearest | Gptq,
) -> None:
    """The relative error of a w4a4 product falls to less than half."""
    x, w = loud_inputs(256), RNG.standard_normal((32, 256)).astype(np.float32)
    seen, exact = statistics_of(x), x.astype(np.float64) @ w.T
    plain = rounder.fit(seen, Grid(4, 32))("m", w)
    order = np.argsort(seen.mean_square)
    sorted_ = rounder.fit(statistics_of(x[:, order]), Grid(4, 32, wide_groups=1))("m", w[:, order])
    before = relative_error(_product(x, plain), exact)
    after = relative_error(_product(x[:, order], sorted_), exact)
    assert after < before / 2


def _product(x: np.ndarray, p: Planes) -> np.ndarray:
    codes, scale = ops.quantize_activations(x, 4, p.group_size, p.wide_groups)
    values = codes * np.repeat(scale, p.group_size, axis=1)
    out: np.ndarray = values.astype(np.float64) @ dequantize(p, 4).T
    return out.astype(np.float32)


def test_a_wide_group_without_feedback_is_rounded_to_the_nearest_code() -> None:
    w = RNG.standard_normal((32, 5)).astype(np.float32)
    feed = np.zeros((32, 32), np.float32)
    codes, scale, offset, errors = round_wide_group(w, w[None], feed, 64.0)
    assert not offset.any()
    np.testing.assert_array_equal(codes, np.rint(w * 16 / scale))
    np.testing.assert_allclose(errors[0], w - codes * scale / 16, atol=1e-6)
    assert (np.abs(errors[0]) <= np.abs(scale) / 32 + 1e-6).all()


def test_feedback_inside_a_wide_group_lowers_the_output_error() -> None:
    x = (RNG.standard_normal((512, 4)) @ RNG.standard_normal((4, 32))).astype(np.float32)
    x += 0.1 * RNG.standard_normal(x.shape).astype(np.float32)
    w = RNG.standard_normal((64, 32)).astype(np.float32)
    grid = Grid(4, 32, wide_groups=1)
    errors = [
        np.linalg.norm(x @ (dequantize(r.fit(statistics_of(x), grid)("m", w), 4) - w).T)
        for r in (Gptq(), RoundToNearest())
    ]
    assert errors[0] < 0.8 * errors[1]
