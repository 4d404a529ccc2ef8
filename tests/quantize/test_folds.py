import numpy as np
import pytest

from halfbyte.calibration.layer import as_dense, dense_layer, transforms_of
from halfbyte.calibration.passes import F32_LEVEL, LayerPasses
from halfbyte.formats.planes import dequantize
from halfbyte.quantize.folds import Awq, SmoothQuant
from halfbyte.quantize.rtn import quantize
from halfbyte.quantize.scheme import LINEAR_INPUTS, Grid, InputDetail
from tests.support.runtimes import TIERS, build
from tests.support.tiny_models import DENSE_MODELS, tiny

LENGTH = 32
GRID = Grid(8, 32)


def passes():
    kind = f"native-{TIERS[0]}"
    return LayerPasses(
        lambda w, n: build(kind, w, num_tokens=n, kv_dtype="f32", max_rows=n), LENGTH
    )


def residual(config, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((12, LENGTH, config.hidden_size)).astype(np.float32)
    return x * np.exp(rng.standard_normal(config.hidden_size)).astype(np.float32)


def folded(model, fold):
    weights = tiny(model)
    layer = dense_layer(weights, 0)
    whole = as_dense(weights.config.only(0), layer, transforms_of(weights, 0))
    seen = passes().observe(whole, residual(weights.config), InputDetail.SECOND_MOMENTS)
    return weights, layer, seen, fold(weights.config, layer, seen, GRID)


# A run-time transform stands between a linear and what feeds it; such models are not folded.
PLAIN = [m for m in DENSE_MODELS if not any(transforms_of(tiny(m), 0).values())]


@pytest.mark.parametrize("model", PLAIN)
@pytest.mark.parametrize("fold", [SmoothQuant(), Awq()], ids=["smoothquant", "awq"])
def test_a_folded_layer_computes_the_same(model, fold):
    weights, layer, _, after = folded(model, fold)
    assert any(not np.array_equal(layer[name], after[name]) for name in layer)
    transforms = transforms_of(weights, 0)
    plain, changed = residual(weights.config), residual(weights.config)
    passes().advance(as_dense(weights.config.only(0), layer, transforms), plain, F32_LEVEL)
    passes().advance(as_dense(weights.config.only(0), after, transforms), changed, F32_LEVEL)
    assert np.linalg.norm(changed - plain) < 2e-5 * np.linalg.norm(plain)


def test_smoothquant_evens_out_the_sizes_of_input_channels():
    weights, _, before, after = folded("llama-f32", SmoothQuant())
    whole = as_dense(weights.config.only(0), after, transforms_of(weights, 0))
    seen = passes().observe(whole, residual(weights.config), InputDetail.CHANNELS)
    for name in ("attn.qkv", "mlp.gate_up", "mlp.down"):
        spread = [np.log(s[name].largest).std() for s in (before, seen)]
        assert spread[1] < 0.8 * spread[0], name


def test_awq_lowers_the_output_error_of_four_bits():
    weights, layer, before, after = folded("llama-f32", Awq())
    whole = as_dense(weights.config.only(0), after, transforms_of(weights, 0))
    seen = passes().observe(whole, residual(weights.config), InputDetail.SECOND_MOMENTS)
    total = np.zeros(2)
    for name, readers in LINEAR_INPUTS:
        for at, (tensors, inputs) in enumerate(((layer, before), (after, seen))):
            for reader in readers:
                w = tensors[reader]
                missed = dequantize(quantize(reader, [w], w.shape, Grid(8, 32)), 4) - w
                total[at] += np.sum((missed @ inputs[name].second_moments) * missed)
    assert total[1] < total[0]


def test_channels_that_are_never_used_keep_finite_scales():
    weights = tiny("llama-f32")
    layer = dense_layer(weights, 0)
    layer["norm.attn"] = layer["norm.attn"].copy()
    layer["norm.attn"][:5] = 0
    whole = as_dense(weights.config.only(0), layer, transforms_of(weights, 0))
    seen = passes().observe(whole, residual(weights.config), InputDetail.SECOND_MOMENTS)
    for fold in (SmoothQuant(), Awq()):
        after = fold(weights.config, layer, seen, GRID)
        assert all(np.isfinite(values).all() for values in after.values())
