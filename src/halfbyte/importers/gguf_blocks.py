"""GGUF quantization blocks -> float32, and -> exactly equal planes where the grids agree."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from halfbyte.formats.planes import pack, split
from halfbyte.formats.weights import Planes
from halfbyte.importers.gguf_types import type_named
from halfbyte.importers.integer_weights import fit_codes

# Types whose values planes of 4 or of 8 bits hold, but for blocks with odd scales.
EXACT_TYPES = {4: ("Q4_0", "Q4_1", "TQ1_0", "TQ2_0"), 8: ("Q8_0", "IQ4_NL", "MXFP4")}
EXACT_GROUP = 32  # the least block size of those types


def to_f32(raw: NDArray[np.uint8], type_name: str) -> NDArray[np.float32]:
    """[n, row_bytes] -> [n, K]."""
    from gguf import GGMLQuantizationType, quants  # 0.1 s that a converted model does not need

    with np.errstate(all="ignore"):  # damaged scales: the numbers are checked where they are used
        values: NDArray[np.float32] = quants.dequantize(raw, GGMLQuantizationType[type_name])
    return values


def to_planes(raw: NDArray[np.uint8], type_name: str) -> Planes | None:
    """[N, row_bytes] -> planes with the same values, or None where a block does not fit.

    Scale times code is exact in float32, so one rounding (adding the offset) remains on either
    side, of the same sum.
    """
    read = _READERS.get(type_name)
    if read is None:
        return None
    with np.errstate(all="ignore"):  # scales that are NaN or too large are not exact, which is said
        return read(raw)


def _from_q4_0(raw: NDArray[np.uint8]) -> Planes | None:
    """w = d * (q - 8)."""
    blocks = raw.reshape(raw.shape[0], -1, 18)
    scale = _f16(blocks[:, :, 0:2])
    if not np.isfinite(scale).all():
        return None
    return Planes(_repack_nibbles(blocks[:, :, 2:]), None, scale, None, EXACT_GROUP)


def _from_q4_1(raw: NDArray[np.uint8]) -> Planes | None:
    """w = d * q + m = d * (q - 8) + (m + 8 d); the last term must be exact in float32."""
    blocks = raw.reshape(raw.shape[0], -1, 20)
    scale, minimum = _f16(blocks[:, :, 0:2]), _f16(blocks[:, :, 2:4])
    exact = minimum.astype(np.float64) + 8 * scale.astype(np.float64)
    offset = exact.astype(np.float32)
    # -0 as the minimum of a negative scale is the one case where the sign of a zero would differ
    odd_zero = (minimum == 0) & np.signbit(minimum) & np.signbit(scale)
    if (
        not np.isfinite(offset).all()
        or (offset.astype(np.float64) != exact).any()
        or odd_zero.any()
    ):
        return None
    return Planes(_repack_nibbles(blocks[:, :, 4:]), None, scale, offset, EXACT_GROUP)


def _from_q8_0(raw: NDArray[np.uint8]) -> Planes | None:
    """w = d * q = 16 d * (code / 16), where codes end at 119 and -136 (see `fit_codes`)."""
    rows = raw.shape[0]
    blocks = raw.reshape(rows, -1, 34)
    scale = _f16(blocks[:, :, 0:2]).astype(np.float32) * 16
    codes = blocks[:, :, 2:].view(np.int8).astype(np.int16)  # [N, K/32, 32]
    if not (np.abs(scale) <= 65504).all():
        return None
    codes, scale, offset = fit_codes(codes, scale)
    hi, lo = split(codes.reshape(rows, -1))
    # the scale is 16 d, so the 8 d that a shift adds is half a scale
    offset = offset / np.float32(16)
    return Planes(
        pack(hi), pack(lo), scale.astype(np.float16), offset if offset.any() else None, EXACT_GROUP
    )


def _from_ternary(raw: NDArray[np.uint8], type_name: str) -> Planes | None:
    """w = d * q, q in -1 .. 2, a scale for 256 weights."""
    rows = raw.reshape(raw.shape[0], -1, type_named(type_name).num_bytes)
    scale = _f16(rows[:, :, -2:])
    if not np.isfinite(scale).all():
        return None
    codes = _integers(raw, type_name, slice(-2, None), np.float16(1))
    scale = np.repeat(scale, type_named(type_name).weights // EXACT_GROUP, axis=1)
    return Planes(pack(codes.astype(np.int8)), None, scale, None, EXACT_GROUP)


def _from_iq4_nl(raw: NDArray[np.uint8]) -> Planes | None:
    """w = d * v = 16 d * (v / 16), v one of sixteen integers from -127 to 113."""
    scale = _f16(raw.reshape(raw.shape[0], -1, 18)[:, :, 0:2]).astype(np.float32) * 16
    if not (np.abs(scale) <= 65504).all():
        return None
    codes = _integers(raw, "IQ4_NL", slice(0, 2), np.float16(1))
    return _nested(codes, scale)


def _from_mxfp4(raw: NDArray[np.uint8]) -> Planes | None:
    """w = 2^(e - 128) * v = 2^(e - 127) * (8 v / 16), v one of 0, 1, 2, 3, 4, 6, 8, 12 or minus."""
    codes = _integers(raw, "MXFP4", slice(0, 1), np.uint8(128)) * np.int16(8)
    exponent = raw.reshape(raw.shape[0], -1, 17)[:, :, 0].astype(np.int32) - 127
    used = (codes.reshape(*exponent.shape, EXACT_GROUP) != 0).any(axis=2)
    if (used & ((exponent < -24) | (exponent > 15))).any():
        return None
    scale = np.where(used, np.ldexp(np.float32(1), exponent), np.float32(0))
    return _nested(codes, scale)


def _integers(
    raw: NDArray[np.uint8], type_name: str, scale: slice, one: np.generic
) -> NDArray[np.int16]:
    """What blocks stand for if their scale is 1: [N, K] integers."""
    kind = type_named(type_name)
    blocks = raw.reshape(raw.shape[0], -1, kind.num_bytes).copy()
    blocks[:, :, scale] = np.frombuffer(one.tobytes(), np.uint8)
    return to_f32(blocks.reshape(raw.shape), type_name).astype(np.int16)


def _nested(codes: NDArray[np.int16], scale: NDArray[np.float32]) -> Planes:
    """Codes [N, K] from -136 to 119 and scales [N, K/G] that f16 holds."""
    hi, lo = split(codes)
    return Planes(pack(hi), pack(lo), scale.astype(np.float16), None, EXACT_GROUP)


def _repack_nibbles(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[N, blocks, 16] -> [N, K/2].

    GGUF: byte j of a block holds inputs j (low) and j + 16 (high); ours: byte j of a row holds
    inputs 2j and 2j + 1.
    """
    nibbles = np.concatenate([packed & 15, packed >> 4], axis=2)  # [N, blocks, 32]
    joined: NDArray[np.uint8] = nibbles[:, :, 0::2] | (nibbles[:, :, 1::2] << np.uint8(4))
    return joined.reshape(packed.shape[0], -1)


def _f16(raw: NDArray[np.uint8]) -> NDArray[np.float16]:
    """[N, blocks, 2] bytes -> [N, blocks]."""
    return np.ascontiguousarray(raw).view(np.dtype("<f2"))[:, :, 0]


_READERS: dict[str, Callable[[NDArray[np.uint8]], Planes | None]] = {
    "Q4_0": _from_q4_0,
    "Q4_1": _from_q4_1,
    "Q8_0": _from_q8_0,
    "TQ1_0": partial(_from_ternary, type_name="TQ1_0"),
    "TQ2_0": partial(_from_ternary, type_name="TQ2_0"),
    "IQ4_NL": _from_iq4_nl,
    "MXFP4": _from_mxfp4,
}
