"""Each op of docs/numerics.md as a numpy function: what the native kernels are tested against.

No result for a row depends on how many rows ride along. Sums whose order the definition leaves open
are taken in float64 and rounded once, so that a comparison measures the other side's error.
Letters: M rows, K inputs, N outputs, G group, D head size.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from halfbyte.formats.transforms import Gather, Rotation, Transform
from halfbyte.runtime.protocol import KvBits

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

LARGEST_CODE = {4: 7, 8: 127, 16: 32512}
SMALLEST_AMAX = np.float32(
    2.0**-100
)  # below it, largest code / amax could overflow: such a group is zeros
ATTENTION_CHUNK = 256  # positions reduced together
F32_MIN_NORMAL = 2.0**-126
SWIGLU_ALPHA = 1.702


def fma(a: F32, b: F32, c: F32) -> F32:
    """a * b + c rounded once to float32; shapes broadcast.

    The product of two float32 is exact in float64. The float64 sum is rounded, and rounding it
    again goes wrong only where it fell on the midpoint of two float32 (or where float32 is
    subnormal and midpoints lie elsewhere): there the sum is first rounded to odd (Boldo and
    Melquiond, 2008), after which the second rounding is right.
    """
    product = np.multiply(a, b, dtype=np.float64)
    total: F64 = np.asarray(product + c)
    bits = total.view(np.int64)
    risky = ((bits & 0x1FFF_FFFF) == 0x1000_0000) | (np.abs(total) < F32_MIN_NORMAL)
    risky &= np.isfinite(total)
    if risky.any():
        x = product[risky]
        y = np.broadcast_to(c, total.shape)[risky].astype(np.float64)
        s = total[risky]
        back = s - x
        lost = (x - (s - back)) + (y - back)  # exact: what the sum lost (Knuth's two-sum)
        steps = np.where((lost > 0) == (s > 0), 1, -1)
        steps[(lost == 0) | (s.view(np.int64) & 1 == 1)] = 0
        total[risky] = (s.view(np.int64) + steps).view(np.float64)
    return total.astype(np.float32)


def transformed(x: F32, transform: Transform | None) -> F32:
    """[M, K] -> [M, K]: what a matrix that carries `transform` multiplies."""
    if transform is None:
        return x
    return x[:, transform.indices] if isinstance(transform, Gather) else rotate(x, transform)


def rotate(x: F32, rotation: Rotation) -> F32:
    """[M, K] -> [M, K], rounded as docs/numerics.md says."""
    core, block = rotation.core, rotation.block
    parts = x.reshape(len(x), -1, core, block * rotation.stride)
    entries = rotation.matrix[:, :, None]  # [to, from, 1]
    mixed: F32 = entries[:, 0] * parts[:, :, :1]
    for i in range(1, core):
        mixed = fma(entries[:, i], parts[:, :, i : i + 1], mixed)
    half = 1
    while half < block:
        pairs = mixed.reshape(*mixed.shape[:3], -1, 2, half)
        a, b = pairs[..., 0, :], pairs[..., 1, :]
        mixed = np.stack((a + b, a - b), axis=-2).reshape(mixed.shape)
        half *= 2
    return (mixed * rotation.scale).reshape(x.shape)


def quantize_activations(
    a: F32, act_bits: int, group_size: int, wide_groups: int = 0
) -> tuple[NDArray[np.int32], F32]:
    """[M, K] -> codes [M, K] and scales [M, K/G]; the last `wide_groups` have at least 8 bits."""
    if wide_groups and act_bits < 8:
        narrow = a.shape[1] - wide_groups * group_size
        parts = (
            quantize_activations(a[:, :narrow], act_bits, group_size),
            quantize_activations(a[:, narrow:], 8, group_size),
        )
        codes, scales = (np.concatenate(both, axis=1) for both in zip(*parts, strict=True))
        return codes, scales
    rows, inputs = a.shape
    grouped = a.reshape(rows, inputs // group_size, group_size)
    largest = np.float32(LARGEST_CODE[act_bits])
    amax = np.abs(grouped).max(axis=2)
    live = amax >= SMALLEST_AMAX
    inverse = np.divide(largest, amax, out=np.zeros_like(amax), where=live)
    codes = np.rint(grouped * inverse[:, :, None]).astype(np.int32)
    return codes.reshape(rows, inputs), np.where(live, amax / largest, np.float32(0))


def linear_planes(
    codes: NDArray[np.int16],
    scale: F32,
    offset: F32 | None,
    x: NDArray[np.int32],
    x_scale: F32,
    unit: F32 | None = None,
) -> F32:
    """Quantized linear layer without bias: [M, N].

    `codes` [N, K] and `scale` [N, K/G] are those of the level's bits (4: hi and s; 8: 16*hi + lo
    and s/16); `offset` [N, K/G]; `x` [M, K] and `x_scale` [M, K/G] are the quantized activations.
    `unit` [N]: what scales and offsets are counted in.
    """
    outputs, inputs = codes.shape
    groups = scale.shape[1]
    rows = x.shape[0]
    # Integers below 2^53 are exact in float64 in any order, so a matrix product computes I exactly.
    w_groups = (
        codes.reshape(outputs, groups, inputs // groups).transpose(1, 2, 0).astype(np.float64)
    )
    x_groups = x.reshape(rows, groups, inputs // groups).transpose(1, 0, 2).astype(np.float64)
    dots = np.matmul(x_groups, w_groups).astype(np.float32)  # [K/G, M, N]
    sums = x_groups.sum(axis=2).astype(np.float32)  # [K/G, M]
    out = np.zeros((rows, outputs), dtype=np.float32)
    for k in range(groups):
        out = fma(dots[k], scale[None, :, k] * x_scale[:, k, None], out)
        if offset is not None:
            out = fma(offset[None, :, k], (x_scale[:, k] * sums[k])[:, None], out)
    return out if unit is None else out * unit


def linear_dense(weights: F32, x: F32) -> F32:
    """Dense linear layer without bias: [N, K], [M, K] -> [M, N], input k in running sum k mod 4."""
    (outputs, inputs), rows = weights.shape, x.shape[0]
    w4 = weights.reshape(1, outputs, inputs // 4, 4)
    x4 = x.reshape(rows, 1, inputs // 4, 4)
    sums = np.zeros((rows, outputs, 4), dtype=np.float32)
    for k in range(inputs // 4):
        sums = fma(w4[:, :, k], x4[:, :, k], sums)
    out: F32 = (sums[..., 0] + sums[..., 1]) + (sums[..., 2] + sums[..., 3])
    return out


def rope_angles(
    positions: NDArray[np.int32], inverse_frequencies: F32, factor: float = 1.0
) -> tuple[F32, F32]:
    """Cosine and sine, each [M, R/2], of position * frequency (one float32 rounding), times factor.

    The product with the factor is rounded again.
    """
    angles = (positions.astype(np.float32)[:, None] * inverse_frequencies).astype(np.float64)
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    return cos * np.float32(factor), sin * np.float32(factor)


def rope(x: F32, cos: F32, sin: F32) -> F32:
    """Rotate the pairs (i, i + R/2) of x [M, H, D] by cos and sin [M, R/2]; the rest stays."""
    half = cos.shape[1]
    a, b, rest = x[:, :, :half], x[:, :, half : 2 * half], x[:, :, 2 * half :]
    c, s = cos[:, None, :], sin[:, None, :]
    out: F32 = np.concatenate((a * c - b * s, b * c + a * s, rest), axis=2)
    return out


def softcapped(x: F32, cap: float | None) -> F32:
    """cap * tanh(x / cap); x itself without a cap."""
    if cap is None:
        return x
    wide: F32 = np.tanh((x / np.float32(cap)).astype(np.float64)).astype(np.float32)
    return wide * np.float32(cap)


def silu_mul(gate: F32, up: F32) -> F32:
    """SiLU(gate) * up, elementwise."""
    with np.errstate(over="ignore"):
        silu: F32 = np.divide(gate, np.float32(1) + np.exp(-gate))
    return silu * up


def gelu_tanh_mul(gate: F32, up: F32) -> F32:
    """0.5 g (1 + tanh(sqrt(2 / pi) (g + 0.044715 g^3))) * up; the factor of g in float64."""
    g = gate.astype(np.float64)
    inner = np.sqrt(2 / np.pi) * (g + 0.044715 * g**3)
    gelu: F32 = gate * (0.5 * (1 + np.tanh(inner))).astype(np.float32)
    return gelu * up


def clamped_swiglu(gate: F32, up: F32, limit: float) -> F32:
    """g sigmoid(1.702 g) (u + 1), g at most `limit`, u from -limit to limit."""
    g = np.minimum(gate, np.float32(limit))
    u = np.clip(up, np.float32(-limit), np.float32(limit))
    with np.errstate(over="ignore"):
        swish: F32 = np.divide(g, np.float32(1) + np.exp(np.float32(-SWIGLU_ALPHA) * g))
    return swish * (u + np.float32(1))


def narrow(x: F32, kv_dtype: str) -> KvBits:
    """float32 -> the bits of f16 or bf16, to nearest even, or its own."""
    if kv_dtype == "f32":
        return np.ascontiguousarray(x).view(np.uint32)
    if kv_dtype == "f16":
        with np.errstate(over="ignore"):
            return x.astype(np.float16).view(np.uint16)
    bits = np.ascontiguousarray(x).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)
    quiet = bits | np.uint32(0x40_0000)
    return (np.where(np.isnan(x), quiet, rounded) >> 16).astype(np.uint16)


def widen(bits: KvBits, dtype: str) -> F32:
    """The bits of f16, bf16 or f32 -> float32, exactly."""
    if dtype == "f32":
        return bits.view(np.float32)
    if dtype == "f16":
        return bits.view(np.float16).astype(np.float32)
    return (bits.astype(np.uint32) << 16).view(np.float32)


def attend(
    queries: F32,
    keys: F32,
    values: F32,
    first: int,
    last: int,
    softcap: float | None = None,
    sinks: F32 | None = None,
) -> F32:
    """One row's attention over positions first..last: [Hkv, R, D], R the query heads of a KV head.

    `queries` [Hkv, R, D], already rotated and scaled; `keys` [Hkv, D, C] and `values` [Hkv, C, D]
    hold positions 0..C-1, of which only first..last are read. `sinks` [H] are scores of one more
    position, whose value is zero; it comes last.
    """
    top = np.full((*queries.shape[:2], 1), -np.inf, dtype=np.float32)
    total = np.zeros_like(top)
    out = np.zeros_like(queries)
    doubles = queries.astype(np.float64)
    for chunk in range(first // ATTENTION_CHUNK, last // ATTENTION_CHUNK + 1):
        begin = max(first, chunk * ATTENTION_CHUNK)
        end = min(last + 1, (chunk + 1) * ATTENTION_CHUNK)
        products = doubles[:, :, :, None] * keys[:, None, :, begin:end]
        scores = products.sum(axis=2).astype(np.float32)  # [Hkv, R, positions]
        scores = softcapped(scores, softcap)
        chunk_top = scores.max(axis=2, keepdims=True)
        weights = np.exp(scores - chunk_top)
        chunk_total = weights.astype(np.float64).sum(axis=2, keepdims=True).astype(np.float32)
        weighted = weights.astype(np.float64)[:, :, :, None] * values[:, None, begin:end]
        chunk_out = weighted.sum(axis=2).astype(np.float32)
        new_top = np.maximum(top, chunk_top)
        keep, add = np.exp(top - new_top), np.exp(chunk_top - new_top)
        out = out * keep + chunk_out * add
        total = total * keep + chunk_total * add
        top = new_top
    if sinks is not None:
        sink = sinks.reshape(top.shape)
        new_top = np.maximum(top, sink)
        keep = np.exp(top - new_top)
        out, total = out * keep, total * keep + np.exp(sink - new_top)
    out /= total
    return out
