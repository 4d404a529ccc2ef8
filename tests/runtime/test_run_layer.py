from itertools import pairwise

import numpy as np
import pytest

from halfbyte.config import Level
from tests.support.runtimes import (
    KINDS,
    all_logits,
    build,
    every_runtime,
    every_tier,
    random_tokens,
    relative_error,
)
from tests.support.tiny_models import DENSE_LAYERED_MODELS, DENSE_MODELS, MODELS, tiny

STARTS = np.array([0, 40, 41, 60], np.int32)
LEVELS = {"f32": Level.parse("f32"), "w8a16": Level.parse("w8a16"), "w4a8": Level.parse("w4a8")}


def residual(model, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((60, tiny(model).config.hidden_size)).astype(np.float32)


def level_of(model):
    if model in DENSE_MODELS | DENSE_LAYERED_MODELS:
        return LEVELS["f32"]
    return LEVELS["w4a8" if "4-planes" in model else "w8a16"]


def fields(taken):
    return {name: getattr(taken, name) for name in ("qkv", "o", "gate_up", "down", "residual")}


@every_tier
@pytest.mark.parametrize("model", [*DENSE_MODELS, *DENSE_LAYERED_MODELS, *MODELS])
def test_a_layer_alone_reads_and_returns_what_the_twin_does(kind, model):
    level = level_of(model)
    # Keys times 1.2 fall on rounding boundaries of f16 more often.
    kv_dtype = "f32" if model in DENSE_LAYERED_MODELS else "f16"
    native, twin = (
        build(k, tiny(model), kv_dtype=kv_dtype).run_layer(0, residual(model), STARTS, level)
        for k in (kind, "reference")
    )
    limit = 1e-5 if str(level) == "f32" else 3e-3  # a last bit may flip an activation code
    for name, wanted in fields(twin).items():
        got = fields(native)[name]
        assert got.shape == wanted.shape
        if wanted.size:  # experts have no one input of `down`
            assert relative_error(got, wanted) < limit, name


@every_runtime
def test_layers_one_by_one_are_the_forward(kind):
    model, tokens = "llama-f32", random_tokens(30)
    weights, runtime = tiny(model), build(kind, tiny(model), kv_dtype="f32")
    x = weights.matrix("embed").values[tokens]
    starts = np.array([0, 30], np.int32)
    for layer in range(weights.config.num_layers):
        x = runtime.run_layer(layer, x, starts, LEVELS["f32"]).residual
    rms = np.sqrt(np.mean(x.astype(np.float64) ** 2, axis=1, keepdims=True) + 1e-5)
    logits = (x / rms * weights.vector("norm.final")) @ weights.matrix("head").values.T
    assert relative_error(all_logits(runtime, tokens, LEVELS["f32"]), logits) < 1e-5


@every_runtime
def test_a_sequence_does_not_see_the_others(kind):
    model = "mistral-f16"
    runtime, x = build(kind, tiny(model)), residual(model)
    together = runtime.run_layer(1, x, STARTS, LEVELS["f32"])
    for begin, end in pairwise(STARTS):
        alone = runtime.run_layer(
            1, x[begin:end], np.array([0, end - begin], np.int32), LEVELS["f32"]
        )
        for name, values in fields(alone).items():
            np.testing.assert_array_equal(values, fields(together)[name][begin:end])


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "reference"][:1])
@pytest.mark.parametrize(
    ("layer", "columns", "starts"),
    [(2, 64, [0, 60]), (-1, 64, [0, 60]), (0, 48, [0, 60]), (0, 64, [0, 59]), (0, 64, [0, 61])],
)
def test_a_layer_or_rows_that_are_not_there_are_refused(kind, layer, columns, starts):
    runtime = build(kind, tiny("llama-f32"))
    x = np.zeros((60, columns), np.float32)
    with pytest.raises(ValueError, match=r"layer|rows|row_starts"):
        runtime.run_layer(layer, x, np.array(starts, np.int32), LEVELS["f32"])
