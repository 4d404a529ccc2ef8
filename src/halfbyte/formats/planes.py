"""Codes and nibbles: split codes into planes, pack planes, dequantize (docs/numerics.md)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from halfbyte.formats.weights import OFFSET_STEP, Planes

MIN_CODE, MAX_CODE = -136, 119  # 16 * hi + lo for hi, lo in [-8, 7]


def split(codes: NDArray[np.int16]) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
    """Codes in [-136, 119] -> (hi, lo), both in [-8, 7]; hi is round(code / 16), ties up."""
    hi = (codes + 8) >> 4
    return hi.astype(np.int8), (codes - (hi << 4)).astype(np.int8)


def join(hi: NDArray[np.int8], lo: NDArray[np.int8]) -> NDArray[np.int16]:
    """The inverse of `split`."""
    return (hi.astype(np.int16) << 4) + lo


def pack(plane: NDArray[np.int8]) -> NDArray[np.uint8]:
    """[N, K] values in [-8, 7] -> [N, K/2] bytes.

    byte j of a row:   bits 0-3 = value[2j] + 8     bits 4-7 = value[2j + 1] + 8
    """
    nibbles = (plane + 8).astype(np.uint8)
    return nibbles[:, 0::2] | (nibbles[:, 1::2] << np.uint8(4))


def unpack(packed: NDArray[np.uint8]) -> NDArray[np.int8]:
    """The inverse of `pack`: [N, K/2] bytes -> [N, K] values in [-8, 7]."""
    plane = np.empty((packed.shape[0], 2 * packed.shape[1]), dtype=np.int8)
    plane[:, 0::2] = packed & 15
    plane[:, 1::2] = packed >> 4
    plane -= 8
    return plane


def pack_pairs(plane: NDArray[np.int8]) -> NDArray[np.uint8]:
    """[N, K] values of lo in {-8, -4, 0, 4} -> [N, K/4] bytes.

    byte j of a row:   bits 0-1 = value[4j] / 4 + 2     bits 2-3 = value[4j + 1] / 4 + 2   …
    """
    pairs = ((plane + 8) >> 2).astype(np.uint8)
    packed = pairs[:, 0::4].copy()
    for i in range(1, 4):
        packed |= pairs[:, i::4] << np.uint8(2 * i)
    return packed


def unpack_pairs(packed: NDArray[np.uint8]) -> NDArray[np.int8]:
    """The inverse of `pack_pairs`: [N, K/4] bytes -> [N, K] values in {-8, -4, 0, 4}."""
    plane = np.empty((packed.shape[0], 4 * packed.shape[1]), dtype=np.int8)
    for i in range(4):
        plane[:, i::4] = (packed >> np.uint8(2 * i)) & 3
    return plane * np.int8(4) - np.int8(8)


def pack_low(plane: NDArray[np.int8], bits: int) -> NDArray[np.uint8]:
    """[N, K] values of lo in 4 bits each, or in 2 where all are multiples of 4."""
    return pack(plane) if bits == 4 else pack_pairs(plane)


def low_codes(planes: Planes) -> NDArray[np.int8] | None:
    """[N, inputs that have `lo`] values in [-8, 7]; None where none has."""
    if planes.lo is None:
        return None
    return unpack(planes.lo) if planes.lo_bits == 4 else unpack_pairs(planes.lo)


def dequantize(planes: Planes, bits: int) -> NDArray[np.float32]:
    """The [N, K] matrix that `bits` (4 or 8) of each code stand for; the same without `lo`.

    Wide groups count with 8 bits. scale * code is exact in float32 (11 + 8 bits), so adding the
    offset is the only rounding; with a unit all but the product with the unit is.
    """
    codes = unpack(planes.hi).astype(np.float32)
    rows, inputs = codes.shape
    wide = planes.wide_groups * planes.group_size
    low = low_codes(planes) if bits == 8 or wide else None
    if low is not None:
        low = low if bits == 8 else low[:, low.shape[1] - wide :]
        codes[:, inputs - low.shape[1] :] += low.astype(np.float32) * np.float32(1 / 16)
    grouped = codes.reshape(rows, inputs // planes.group_size, planes.group_size)
    grouped *= planes.scale.astype(np.float32)[:, :, None]
    step = np.float32(1 if planes.unit is None else OFFSET_STEP)
    if planes.offset is not None:
        grouped += planes.offset.astype(np.float32)[:, :, None] * step
    if planes.unit is not None:
        codes *= planes.unit[:, None]
    return codes
