"""Scaled and shuffled channels leave what a layer computes as it was."""

import numpy as np
import pytest

pytest.importorskip("gguf")
from benchmarks.quality.off_grid import Fold, folded, scales_of, shuffled

HEADS, KV_HEADS, SIZE, INNER = 4, 2, 8, 48
HIDDEN = HEADS * SIZE


def test_a_scaled_layer_computes_the_same() -> None:
    random = np.random.default_rng(0)
    shapes = {
        "token_embd.weight": (100, HIDDEN),
        "blk.0.attn_norm.weight": (HIDDEN,),
        "blk.0.attn_v.weight": (KV_HEADS * SIZE, HIDDEN),
        "blk.0.attn_v.bias": (KV_HEADS * SIZE,),
        "blk.0.attn_output.weight": (HIDDEN, HIDDEN),
        "blk.0.ffn_norm.weight": (HIDDEN,),
        "blk.0.ffn_up.weight": (INNER, HIDDEN),
        "blk.0.ffn_down.weight": (HIDDEN, INNER),
        "output_norm.weight": (HIDDEN,),
        "output.weight": (100, HIDDEN),
    }
    before = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    folds = shuffled(scales_of(shapes, HEADS, KV_HEADS), shapes, HEADS, KV_HEADS)
    after = {name: folded(values, folds.get(name, Fold())) for name, values in before.items()}
    stream = folds["token_embd.weight"].inputs
    assert stream is not None

    def layer(w: dict[str, np.ndarray]) -> list[np.ndarray]:
        x = w["token_embd.weight"][7]
        values = w["blk.0.attn_v.weight"] @ (x * w["blk.0.attn_norm.weight"])
        heads = (values + w["blk.0.attn_v.bias"]).reshape(KV_HEADS, SIZE)
        mixed = np.repeat(heads, HEADS // KV_HEADS, axis=0).reshape(-1)
        up = w["blk.0.ffn_up.weight"] @ (x * w["blk.0.ffn_norm.weight"])
        return [
            w["blk.0.attn_output.weight"] @ mixed,
            w["blk.0.ffn_down.weight"] @ up,
            w["output.weight"] @ (x * w["output_norm.weight"]),
        ]

    o, down, logits = layer(before)
    for ours, theirs in zip(layer(after), (o[stream], down[stream], logits), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-4)
    assert all(not np.array_equal(after[name], before[name]) for name in shapes)
