"""Experts as gpt-oss publishes them: MXFP4 blocks and their scales in two tensors.

NAME_blocks U8 [E, N, K/32, 16] holds two values a byte, neighbours, the first in the low nibble;
NAME_scales U8 [E, N, K/32] the exponents, biased by 127. GGUF has the same numbers in blocks of a
scale and 16 bytes, whose byte j holds values j and j + 16: what reads those reads these.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from halfbyte.formats.tensor_file import TensorFile
from halfbyte.importers.families import Place

METHOD = "mxfp4"  # quantization_config's name
TYPE = "MXFP4"  # GGUF's
_BLOCK = 32


def parts_of(place: Place) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(tensor, shape) of the two parts of an [E, K, N] matrix that lies in such blocks."""
    (name,), (count, inputs, rows) = place.tensors, place.shape
    yield f"{name}_blocks", (count, rows, inputs // _BLOCK, _BLOCK // 2)
    yield f"{name}_scales", (count, rows, inputs // _BLOCK)


def is_packed(files: Mapping[str, TensorFile], place: Place) -> bool:
    """Whether a file has the blocks in place of the matrix."""
    whole = place.transposed and place.shape[1] % _BLOCK == 0
    return whole and f"{place.tensors[0]}_blocks" in files


def read_rows(
    files: Mapping[str, TensorFile], place: Place, begin: int, end: int
) -> NDArray[np.uint8]:
    """Rows of a matrix as a GGUF file would hold them: [end - begin, K/32 * 17]."""
    wanted = place.rows(begin, end)
    blocks, scales = (
        files[name].array(name).reshape(-1, *shape[2:])[wanted] for name, shape in parts_of(place)
    )
    first, second = blocks & 15, blocks >> 4
    values = np.stack([first, second], axis=-1).reshape(*blocks.shape[:-1], _BLOCK)
    paired = values[..., : _BLOCK // 2] | (values[..., _BLOCK // 2 :] << np.uint8(4))
    joined = np.concatenate([scales[..., None], paired], axis=-1)
    return np.ascontiguousarray(joined).reshape(len(blocks), -1)
