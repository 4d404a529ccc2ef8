"""A model's description: what it says of layers, and what its JSON may not say."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from halfbyte.config import (
    Attention,
    Experts,
    FeedForward,
    LayerConfig,
    ModelConfig,
    RopeConfig,
    is_flat,
    model_values,
    read_model,
)
from halfbyte.errors import ModelError
from halfbyte.formats.names import expected_tensors, product_of, site_inputs
from tests.support.tiny_models import CONFIGS

NEAR = Attention(8, 2, 32, rope=RopeConfig(rotary_dim=16), window=24, sinks=True, softcap=30.0)
FAR = Attention(8, 2, 32, rope=None, qk_norm="whole", bias=True, out_bias=True, scale=0.1)
DENSE = FeedForward(96, "gelu-tanh", bias=True)
MIXED = Experts(8, 2, FeedForward(32, "clamped-swiglu", limit=5.0), router_bias=True)
SHARED = Experts(
    4,
    1,
    FeedForward(32),
    routing="sigmoid",
    choice_bias=True,
    shared=FeedForward(64),
    shared_gate=True,
)
MODEL = ModelConfig(
    family="mixed",
    vocab_size=64,
    hidden_size=64,
    num_layers=7,
    max_context=128,
    norm_eps=1e-6,
    kinds=(
        LayerConfig(NEAR, DENSE, norms="both", residual_multiplier=0.5),
        LayerConfig(FAR, MIXED, norms="after"),
        LayerConfig(FAR, SHARED),
    ),
    order=(0, 0, 1, 2),
    embedding_multiplier=8.0,
    logit_softcap=30.0,
    eos_ids=(1, 2),
)


def test_layers_repeat_in_their_order() -> None:
    kinds = [MODEL.kinds.index(MODEL.layer(i)) for i in range(7)]
    assert kinds == [0, 0, 1, 2, 0, 0, 1]
    assert MODEL.layer_counts == {0: 4, 1: 2, 2: 1}
    assert MODEL.only(2).layer(0) == MODEL.layer(2)
    assert MODEL.kv_values == 7 * 2 * 2 * 32


@pytest.mark.parametrize("config", [MODEL, *CONFIGS.values()])
def test_a_description_is_read_back_from_its_json(config: ModelConfig) -> None:
    values = json.loads(json.dumps(model_values(config)))
    assert read_model(values) == config
    assert is_flat(config) == ("kinds" not in values) == (config is not MODEL)


@pytest.mark.parametrize(
    "changed",
    [
        CONFIGS["llama"].with_attention(sinks=True),
        CONFIGS["llama"].with_attention(rope=None),
        CONFIGS["llama"].with_attention(rope=RopeConfig(attention_factor=1.1)),
        CONFIGS["llama"].with_feed_forward(activation="gelu-tanh"),
        replace(CONFIGS["llama"], logit_multiplier=0.5),
        replace(CONFIGS["llama"], family="granite"),
    ],
)
def test_flat_fields_never_stand_for_more_than_they_say(changed: ModelConfig) -> None:
    assert not is_flat(changed)
    assert read_model(model_values(changed)) == changed


def test_one_kind_listed_twice_is_still_flat() -> None:
    kind = CONFIGS["llama"].kinds[0]
    twice = replace(CONFIGS["llama"], kinds=(kind, kind), order=(1,))
    assert model_values(twice) == model_values(CONFIGS["llama"])


def _spoilt(path: str, value: Any) -> dict[str, Any]:
    values: Any = json.loads(json.dumps(model_values(MODEL)))
    *way, last = path.split("/")
    place = values
    for step in way:
        place = place[int(step) if step.isdigit() else step]
    place[last] = value
    return dict(values)


HOSTILE = [
    *[(f"kinds/0/mixer/{name}", value) for name in ("num_heads", "num_kv_heads", "head_dim")
      for value in (0, -1, True, 1.5, "8", None, 1 << 40, 3)],
    *[(f"kinds/0/mixer/{name}", value) for name in ("sinks", "bias", "out_bias")
      for value in (1, None, "yes", [])],
    *[(f"kinds/0/mixer/{name}", value) for name in ("softcap", "scale", "position_scale")
      for value in (-1, float("nan"), float("inf"), 1e300, "1", [])],
    *[("kinds/0/mixer/rope/rotary_dim", value) for value in (0, 15, 34, "8", 1 << 40)],
    *[("kinds/0/mixer/rope/kind", value) for value in ("su", None, ["yarn"])],
    *[("kinds/1/feed_forward/top_k", value) for value in (0, 9, "2", None, 1.0)],
    *[("kinds/1/feed_forward/count", value) for value in (0, 1 << 20, True)],
    *[("kinds/1/feed_forward/each", value) for value in (None, [], {"size": 1 << 24}, {"sise": 3})],
    ("kinds/2/feed_forward/shared", None),  # its gate stays
    ("kinds/1/feed_forward/choice_bias", True),
    ("kinds/1/feed_forward/type", "mlp"),
    ("kinds/0/feed_forward/activation", "relu"),
    ("kinds/0/mixer/type", "mamba"),
    ("kinds/0/mixer", []),
    ("kinds/0/norms", "between"),
    ("kinds/0/residual_multiplier", 0),
    ("kinds/0/windows", 3),
    ("kinds", []),
    ("kinds", {}),
    ("order", []),
    ("order", [3]),
    ("order", [-1]),
    ("order", [0.0]),
    ("order", [0] * 5000),
    ("family", "../x"),
    ("family", None),
    ("logit_softcap", 0),
    ("num_layer", 3),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value"), HOSTILE)
def test_what_cannot_be_is_refused(path: str, value: Any) -> None:
    with pytest.raises(ModelError) as caught:
        read_model(_spoilt(path, value))
    assert "\n" not in str(caught.value)


def test_stacked_experts_are_matrices_of_their_product() -> None:
    shapes = dict(expected_tensors(MODEL))
    assert shapes["layers.2.mlp.gate"] == (8 * 32, 64)
    assert shapes["layers.2.mlp.down"] == (8 * 64, 32)
    assert shapes["layers.2.mlp.router"] == (8 * 64,)
    assert shapes["layers.3.shared.down"] == (64, 64)
    assert shapes["layers.2.attn.q_norm"] == (256,)
    assert product_of("layers.3.shared.up") == ("layers.3.shared.gate", "layers.3.shared.up")
    assert product_of("layers.2.attn.k") == tuple(f"layers.2.attn.{x}" for x in "qkv")
    assert product_of("embed") == ("embed",)
    # what layers of 96 and 32 inputs have in common
    assert site_inputs(MODEL)["mlp.down"] == 32


def test_yarn_keeps_fast_pairs_and_divides_slow_ones() -> None:
    plain = RopeConfig(base=1e4).inverse_frequencies(64)
    rope = RopeConfig(base=1e4, kind="yarn", factor=8.0, original_context=128)
    scaled = rope.inverse_frequencies(64)
    assert scaled[0] == plain[0]
    np.testing.assert_allclose(scaled[-1], plain[-1] / 8, rtol=1e-6)
    assert (np.diff(scaled / plain) <= 1e-7).all()
    with pytest.raises(ModelError, match=r"rope\.base"):
        RopeConfig(base=1.0, kind="yarn")


def test_proportional_pairs_that_do_not_turn_stand_at_the_end() -> None:
    rope = RopeConfig(kind="proportional", rotary_dim=16)
    whole = RopeConfig().inverse_frequencies(64)
    np.testing.assert_array_equal(rope.inverse_frequencies(64)[:8], whole[:8])
    assert not rope.inverse_frequencies(64)[8:].any()
    assert len(rope.inverse_frequencies(64)) == 32
