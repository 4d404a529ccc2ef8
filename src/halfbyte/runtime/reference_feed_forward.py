"""Feed-forwards in numpy, which look at one position alone: the definition (docs/numerics.md)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from halfbyte.config import Experts, FeedForward, Level
from halfbyte.runtime.norm import rms_norm
from halfbyte.runtime.reference_ops import (
    F32,
    clamped_swiglu,
    fma,
    gelu_tanh_mul,
    linear_dense,
    silu_mul,
)
from halfbyte.runtime.reference_weights import DenseWeights, ExpertWeights


def activate(config: FeedForward, gate: F32, up: F32) -> F32:
    """act(gate) * up, elementwise."""
    if config.activation == "gelu-tanh":
        return gelu_tanh_mul(gate, up)
    if config.activation == "clamped-swiglu":
        return clamped_swiglu(gate, up, config.limit)
    return silu_mul(gate, up)


def dense(config: FeedForward, weights: DenseWeights, x: F32, level: Level) -> tuple[F32, F32]:
    """[M, hidden] -> the input of `down` [M, size], and its output [M, hidden]."""
    bits = level.weight_bits, level.act_bits
    gate, up = weights.gate.linear(x, *bits), weights.up.linear(x, *bits)
    if weights.biases is not None:
        gate, up = gate + weights.biases[0], up + weights.biases[1]
    inner = activate(config, gate, up)
    out = weights.down.linear(inner, *bits)
    return inner, out if weights.biases is None else out + weights.biases[2]


def experts(config: Experts, weights: ExpertWeights, x: F32, level: Level) -> F32:
    """[M, hidden] -> [M, hidden]: the chosen experts in ascending order, the shared one last."""
    out = _routed(config, weights, x, x, level)
    if weights.shared is None:
        return out
    assert config.shared is not None
    _, part = dense(config.shared, weights.shared, x, level)
    if weights.shared_router is not None:
        return fma(_sigmoid(linear_dense(weights.shared_router, x)), part, out)
    return out + part


def experts_apart(
    config: Experts, weights: ExpertWeights, residual: F32, x: F32, level: Level, eps: float
) -> F32:
    """The same where the shared expert alone reads x, and the others the residual stream."""
    norms = weights.norms
    assert norms is not None
    assert config.shared is not None
    assert weights.shared is not None
    read = rms_norm(residual, np.ones(residual.shape[1], np.float32), eps)
    out = _routed(config, weights, read, rms_norm(residual, norms.before, eps), level)
    _, part = dense(config.shared, weights.shared, x, level)
    return rms_norm(part, norms.shared_after, eps) + rms_norm(out, norms.after, eps)


def _routed(config: Experts, weights: ExpertWeights, read: F32, x: F32, level: Level) -> F32:
    """What the experts that `read` chooses make of x."""
    chosen, shares = route(config, weights, read)
    out = np.zeros_like(x)
    for e in np.unique(chosen):
        rows, places = np.nonzero(chosen == e)
        _, part = dense(config.each, weights.each[e], x[rows], level)
        out[rows] = fma(shares[rows, places][:, None], part, out[rows])
    return out


def route(config: Experts, weights: ExpertWeights, x: F32) -> tuple[NDArray[np.int64], F32]:
    """The experts of each row, [M, top_k], and their weights; all in float32 at every level."""
    scores = linear_dense(weights.router, x)  # [M, E]
    if weights.router_bias is not None:
        scores = scores + weights.router_bias
    ranked = scores
    if config.routing == "sigmoid":
        scores = ranked = _sigmoid(scores)
        if weights.choice_bias is not None:
            ranked = scores + weights.choice_bias
    ranked = np.where(np.isnan(ranked), np.float32(-np.inf), ranked)
    chosen = np.argsort(-ranked, axis=1, kind="stable")[:, : config.top_k]
    shares: F32 = np.take_along_axis(scores, chosen, axis=1)
    if config.routing == "softmax":
        over = shares if config.normalized else scores
        top = scores.max(axis=1, keepdims=True)
        shares = _divided(np.exp(shares - top), np.exp(over - top))
    elif config.normalized:
        shares = _divided(shares, shares)
    if weights.each_scale is not None:
        shares = shares * weights.each_scale[chosen]
    return chosen, shares * np.float32(config.scale)


def _divided(parts: F32, whole: F32) -> F32:
    """Each row's parts over the sum of its whole, which is taken in float64 and rounded."""
    total = whole.astype(np.float64).sum(axis=1, keepdims=True).astype(np.float32)
    divided: F32 = parts / total
    return divided


def _sigmoid(x: F32) -> F32:
    with np.errstate(over="ignore"):
        out: F32 = np.float32(1) / (np.float32(1) + np.exp(-x))
    return out
