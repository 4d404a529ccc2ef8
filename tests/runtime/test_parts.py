"""Parts of layers beyond the plain ones: rows do not depend on company; refusals name a part."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from halfbyte.config import Experts, Level, ModelConfig
from halfbyte.errors import ModelError
from halfbyte.formats.weights import Dense, Planes
from halfbyte.runtime.native import NativeRuntime
from halfbyte.runtime.reference_feed_forward import route
from halfbyte.runtime.reference_weights import ExpertWeights, load_model
from tests.config.test_model import MODEL
from tests.support.runtimes import (
    all_logits,
    build,
    every_runtime,
    every_tier,
    prefix_batch,
    random_tokens,
    relative_error,
)
from tests.support.tiny_models import CONFIGS, LAYERED_CONFIGS, Kind, TinyWeights, make, tiny

LLAMA = CONFIGS["llama"]
TOKENS = random_tokens(30, MODEL.vocab_size)


@pytest.mark.parametrize("level", ["f32", "w8a16", "w4a8"])
def test_a_row_is_the_same_alone_and_in_company(level: str) -> None:
    weights = make(MODEL, Kind(dense="f32") if level == "f32" else Kind())
    parsed = Level.parse(level)
    whole = all_logits(build("reference", weights), TOKENS, parsed)
    alone = build("reference", weights)
    zero = np.zeros(1, np.int32)
    single = [
        alone.forward(prefix_batch(TOKENS[m : m + 1], alone.page_size, first=m), parsed, zero)[0]
        for m in range(len(TOKENS))
    ]
    assert np.isfinite(whole).all()
    assert np.array_equal(whole, np.stack(single))


@pytest.mark.parametrize("layer", [2, 3])
def test_weights_of_the_chosen_experts_are_a_distribution(layer: int) -> None:
    weights = make(MODEL, Kind(dense="f32"))
    kind, held = MODEL.layer(layer).feed_forward, load_model(weights).layers[layer].feed_forward
    assert isinstance(held, ExpertWeights)
    x = np.random.default_rng(0).standard_normal((50, 64)).astype(np.float32)
    chosen, shares = route(kind, held, x)  # type: ignore[arg-type]
    assert all(len(set(row)) == kind.top_k for row in chosen.tolist())  # type: ignore[union-attr]
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-6)
    assert (shares > 0).all()
    assert len(np.unique(chosen)) > 1  # no expert takes all rows


@every_tier
@pytest.mark.parametrize("level", ["f32", "w8a16", "w4a8"])
def test_weights_of_experts_that_no_row_chose_are_not_used(kind: str, level: str) -> None:
    """They are NaN here, so that a product with any would show."""
    config = replace(LAYERED_CONFIGS["shared"], num_layers=1)
    parsed, stored = Level.parse(level), Kind(dense="f32") if level == "f32" else Kind()
    weights = make(config, stored)
    tokens = TOKENS[:3]
    wanted = all_logits(build(kind, weights), tokens, parsed)
    layer = load_model(weights).layers[0]
    experts, held = layer.config.feed_forward, layer.feed_forward
    assert isinstance(experts, Experts)
    assert isinstance(held, ExpertWeights)
    residual = load_model(weights).embed.rows(tokens)
    starts = np.array([0, len(tokens)], np.int32)
    entering = build("reference", weights).run_layer(0, residual, starts, parsed).gate_up
    chosen, _ = route(experts, held, entering)
    assert len(np.unique(chosen)) < experts.count
    others = np.setdiff1d(np.arange(experts.count), chosen)
    for name in ("gate", "up", "down"):
        _poison(weights.matrices, f"layers.0.mlp.{name}", others, experts.count)
    assert all_logits(build(kind, weights), tokens, parsed).tobytes() == wanted.tobytes()


def _poison(
    matrices: dict[str, Planes | Dense], name: str, experts: NDArray[np.intp], count: int
) -> None:
    matrix = matrices[name]
    values = (matrix.scale if isinstance(matrix, Planes) else matrix.values).copy()
    values.reshape(count, -1)[experts] = np.nan
    if isinstance(matrix, Planes):
        matrices[name] = replace(matrix, scale=values)
    else:
        matrices[name] = replace(matrix, values=values)


@every_tier
def test_of_experts_with_one_score_the_first_are_chosen(kind: str) -> None:
    weights = make(LAYERED_CONFIGS["shared"], Kind(dense="f32"))
    for layer in (0, 2):
        router = weights.vectors[f"layers.{layer}.mlp.router"].reshape(37, 64)
        router[5:30] = router[5]
    weights.vectors["layers.0.mlp.choice.bias"] = np.zeros(37, np.float32)
    native, twin = (build(k, weights, kv_dtype="f32") for k in (kind, "reference"))
    out, expected = (all_logits(r, TOKENS, Level.parse("f32")) for r in (native, twin))
    assert relative_error(out, expected) <= 1e-5


@every_runtime
@pytest.mark.parametrize("model", ["layers-sinks-experts", "layers-shared-experts"])
def test_a_row_reads_its_own_experts_only(kind: str, model: str) -> None:
    weights = tiny(model)
    wanted = 0.0
    for name, matrix in weights.matrices.items():
        if name == "embed":
            continue
        assert isinstance(matrix, Planes)
        share, parts = 1.0, name.split(".")
        if parts[0] == "layers" and parts[2] == "mlp":
            inner = weights.config.layer(int(parts[1])).feed_forward
            share = inner.top_k / inner.count if isinstance(inner, Experts) else 1.0
        wanted += share * sum(array.nbytes for array in matrix.arrays.values())
    read = build(kind, weights).weight_bytes(Level.parse("w8a8"))
    assert wanted - 3 <= read <= 1.1 * wanted  # the core rounds rows up to panels


SIZES: list[tuple[str, ModelConfig]] = [
    ("heads per KV head", LLAMA.with_attention(num_heads=65, num_kv_heads=1)),
    ("feed-forward size", LLAMA.with_feed_forward(size=72)),
    ("hidden_size", replace(LLAMA, hidden_size=72)),
    ("where there are experts", replace(LAYERED_CONFIGS["shared"], hidden_size=48)),
]


@pytest.mark.parametrize(("size", "config"), SIZES, ids=[size for size, _ in SIZES])
def test_sizes_that_the_core_does_not_run_are_named(size: str, config: ModelConfig) -> None:
    weights = TinyWeights(config, {}, {})
    with pytest.raises(ModelError, match=f'{size}.*backend="reference"'):
        NativeRuntime(weights, threads=1, num_tokens=32)
