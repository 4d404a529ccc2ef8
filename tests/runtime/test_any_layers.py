"""Models of drawn layers: the core is the twin, and a row's bits are its own."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest

from halfbyte.config import (
    Attention,
    Experts,
    FeedForward,
    LayerConfig,
    Level,
    ModelConfig,
    RopeConfig,
)
from tests.support.runtimes import (
    all_logits,
    build,
    every_tier,
    prefix_batch,
    random_tokens,
    relative_error,
)
from tests.support.tiny_models import CONFIGS, Kind, make

TOKENS = random_tokens(45)


def _rope(random: Random, head_dim: int) -> RopeConfig | None:
    kind = random.choice(["none", "linear", "llama3", "yarn", "proportional", "absent"])
    if kind == "absent":
        return None
    part = random.choice([None, 8, head_dim // 2, head_dim])
    pairs = (part or head_dim) // 2
    factors = tuple(random.uniform(1, 4) for _ in range(pairs)) if kind == "none" else ()
    return RopeConfig(
        base=random.choice([1e4, 1e6]),
        kind=kind,
        factor=random.choice([2.0, 8.0]),
        original_context=random.choice([8, 64]),
        frequency_factors=factors,
        rotary_dim=part,
        attention_factor=random.choice([1.0, 1.3]),
    )


def _attention(random: Random) -> Attention:
    kv_heads, group = random.choice([1, 2, 3]), random.choice([2, 4, 6])  # whole groups of 32
    head_dim = random.choice([16, 32, 48, 80])
    rope = _rope(random, head_dim)
    return Attention(
        num_heads=kv_heads * group,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        rope=rope,
        window=random.choice([None, 1, 17]),
        bias=random.random() < 0.3,
        out_bias=random.random() < 0.3,
        qk_norm=random.choice(["none", "head", "whole"]),
        scale=random.choice([None, 0.3]),
        softcap=random.choice([None, 5.0]),
        sinks=random.random() < 0.4,
        position_scale=random.choice([0.0, 0.2]) if rope else 0.0,
    )


def _feed_forward(random: Random) -> FeedForward:
    activation = random.choice(["silu", "gelu-tanh", "clamped-swiglu"])
    return FeedForward(random.choice([32, 96]), activation, bias=random.random() < 0.3, limit=1.5)


def _experts(random: Random) -> Experts:
    count = random.choice([1, 5, 40])
    sigmoid, shared = random.random() < 0.5, random.random() < 0.5
    return Experts(
        count,
        random.randint(1, min(count, 6)),
        _feed_forward(random),
        routing="sigmoid" if sigmoid else "softmax",
        normalized=random.random() < 0.5,
        router_bias=random.random() < 0.5,
        choice_bias=sigmoid and random.random() < 0.5,
        scale=random.choice([1.0, 2.5]),
        shared=_feed_forward(random) if shared else None,
        shared_gate=shared and random.random() < 0.5,
    )


def _model(seed: int) -> ModelConfig:
    random = Random(seed)
    kinds = tuple(
        LayerConfig(
            _attention(random),
            random.choice([_feed_forward, _experts])(random),
            norms=random.choice(["before", "after", "both"]),
            residual_multiplier=random.choice([1.0, 0.4]),
        )
        for _ in range(3)
    )
    return replace(
        CONFIGS["llama"],
        num_layers=3,
        kinds=kinds,
        order=(0, 1, 2),
        embedding_multiplier=random.choice([1.0, 0.5]),
        logit_multiplier=random.choice([1.0, 0.7]),
        logit_softcap=random.choice([None, 8.0]),
    )


@every_tier
@pytest.mark.parametrize("seed", range(12))
def test_native_logits_of_any_layers_are_the_twin_s(kind: str, seed: int) -> None:
    weights, level = make(_model(seed), Kind(dense="f32")), Level.parse("f32")
    native, twin = (build(k, weights, kv_dtype="f32") for k in (kind, "reference"))
    got, wanted = (all_logits(r, TOKENS, level) for r in (native, twin))
    assert np.isfinite(wanted).all()
    assert max(map(relative_error, got, wanted)) <= 2e-5


@every_tier
@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("level", ["w4a4", "w8a16"])
def test_a_row_of_any_layers_is_the_same_alone_and_in_company(
    kind: str, seed: int, level: str
) -> None:
    weights, parsed = make(_model(seed), Kind()), Level.parse(level)
    whole = all_logits(build(kind, weights, threads=3), TOKENS, parsed)
    runtime = build(kind, weights, threads=2)
    for chunk in (1, 4, 9):
        for first in range(0, len(TOKENS), chunk):
            part = TOKENS[first : first + chunk]
            rows = np.arange(len(part), dtype=np.int32)
            got = runtime.forward(prefix_batch(part, runtime.page_size, first), parsed, rows)
            assert got.tobytes() == whole[first : first + chunk].tobytes()
