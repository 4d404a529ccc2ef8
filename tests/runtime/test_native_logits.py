"""Whole native forwards against the twin.

The same operations in the same order, but for sums of norms and attention: their last bits may push
a value over a rounding boundary of the activation codes, and that row then differs by a code. So:

    f32        every row within 1e-5
    a4, a8     a flip is rare but large: three quarters of the rows within 2e-6, none beyond 5%
    a16        a code is 3e-5 of a group's largest value, flips are common: every row within 5e-4

KV pages are f32 here: rounding K and V to f16 adds flips of its own (see test_native_ops.py).
"""

from __future__ import annotations

import numpy as np
import pytest

from halfbyte.config import LEVEL_NAMES, Level
from tests.support.runtimes import all_logits, build, every_tier, random_tokens, relative_error
from tests.support.tiny_models import DENSE_LAYERED_MODELS, DENSE_MODELS, MODELS, tiny

PROMPTS = [random_tokens(12, seed=s) for s in range(8)]


@every_tier
@pytest.mark.parametrize("model", [*MODELS, *DENSE_MODELS, *DENSE_LAYERED_MODELS])
def test_native_logits_are_the_twin_s(kind: str, model: str) -> None:
    native, twin = (build(k, tiny(model), kv_dtype="f32") for k in (kind, "reference"))
    for level in (x for x in map(Level.parse, LEVEL_NAMES) if twin.supports(x)):
        errors = np.array(
            [
                relative_error(row, expected)
                for prompt in PROMPTS
                for row, expected in zip(
                    all_logits(native, prompt, level), all_logits(twin, prompt, level), strict=True
                )
            ]
        )
        if level.act_bits == 32:
            assert errors.max() <= 1e-5
        elif level.act_bits == 16:
            assert errors.max() <= 5e-4
        else:
            assert np.quantile(errors, 0.75) <= 2e-6
            assert errors.max() <= 0.05


@every_tier
@pytest.mark.parametrize("model", ["llama-f32", "mistral-f16"])
def test_native_logits_over_a_long_context_are_the_twin_s(kind: str, model: str) -> None:
    native, twin = (build(k, tiny(model), kv_dtype="f32") for k in (kind, "reference"))
    tokens = random_tokens(300)
    level = Level.parse("f32")
    out, expected = (all_logits(r, tokens, level) for r in (native, twin))
    assert max(map(relative_error, out, expected)) <= 1e-5
