"""Codes and nibbles: split codes into planes, pack planes, dequantize (docs/numerics.md)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from halfbyte.formats.weights import Planes

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


def dequantize(planes: Planes, bits: int) -> NDArray[np.float32]:
    """The [N, K] matrix that `bits` (4 or 8) of each code stand for; the same without `lo`.

    Wide groups count with 8 bits. scale * code is exact in float32 (11 + 8 bits), so adding the
    offset is the only rounding.
    """
    codes = unpack(planes.hi).astype(np.float32)
    rows, inputs = codes.shape
    wide = planes.wide_groups * planes.group_size
    if planes.lo is not None and (bits == 8 or wide):
        low = unpack(planes.lo if bits == 8 else planes.lo[:, planes.lo.shape[1] - wide // 2 :])
        codes[:, inputs - low.shape[1] :] += low.astype(np.float32) * np.float32(1 / 16)
    grouped = codes.reshape(rows, inputs // planes.group_size, planes.group_size)
    grouped *= planes.scale.astype(np.float32)[:, :, None]
    if planes.offset is not None:
        grouped += planes.offset[:, :, None]
    return codes
