"""Parts of layers beyond the plain ones: rows do not depend on company; refusals name a part."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from halfbyte.config import Level, ModelConfig, RopeConfig
from halfbyte.errors import ModelError
from halfbyte.runtime.native import NativeRuntime
from halfbyte.runtime.reference_feed_forward import route
from halfbyte.runtime.reference_weights import ExpertWeights, load_model
from tests.config.test_model import MODEL
from tests.support.runtimes import all_logits, build, prefix_batch, random_tokens
from tests.support.tiny_models import CONFIGS, Kind, make

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


PARTS: list[tuple[str, ModelConfig]] = [
    ("layers of several kinds", MODEL),
    ("attention sinks", LLAMA.with_attention(sinks=True)),
    ("a softcap of scores", LLAMA.with_attention(softcap=20.0)),
    ("layers without RoPE", LLAMA.with_attention(rope=None)),
    ("RoPE of a part of the head", LLAMA.with_attention(rope=RopeConfig(rotary_dim=8))),
    ("a norm over whole q and k", LLAMA.with_attention(qk_norm="whole")),
    ("the activation gelu-tanh", LLAMA.with_feed_forward(activation="gelu-tanh")),
    ("experts", replace(MODEL.only(2), embedding_multiplier=1.0, logit_softcap=None)),
    ("norms after", replace(LLAMA, kinds=(replace(LLAMA.kinds[0], norms="after"),))),
    ("a softcap of logits", replace(LLAMA, logit_softcap=30.0)),
]


@pytest.mark.parametrize(("part", "config"), PARTS, ids=[part for part, _ in PARTS])
def test_what_the_core_does_not_run_is_named(part: str, config: ModelConfig) -> None:
    weights = make(config, Kind(dense="f32"))
    with pytest.raises(ModelError, match=f'{part}.*backend="reference"'):
        NativeRuntime(weights, threads=1, num_tokens=32)
    logits = all_logits(build("reference", weights), TOKENS[:8], Level.parse("f32"))
    assert np.isfinite(logits).all()
