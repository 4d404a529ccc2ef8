"""The header of a GGUF file (versions 2 and 3), parsed as hostile input."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfbyte.errors import SourceError
from halfbyte.importers.gguf_types import (
    BlockType,
    is_readable,
    package_version,
    readable_names,
    types_by_id,
)

MAX_KEYS = 4096
MAX_TENSORS = 65536
MAX_NAME_BYTES = 1024
MAX_STRING_BYTES = 16 << 20
MAX_STRINGS = (
    4 << 20
)  # in all arrays together; the largest vocabularies have 262k tokens and 515k merges
MAX_DIMENSIONS = 4
_SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor of a checked header."""

    type_name: str
    shape: tuple[int, ...]  # [N, K] or [n]: the slowest dimension first
    begin: int  # byte offsets in the file
    end: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """Metadata and tensors, every count, length and offset checked."""

    metadata: dict[str, Any]  # int, float, bool, str, list[str] or a numpy array
    tensors: dict[str, GgufTensor]


def parse_header(path: Path, data: NDArray[np.uint8]) -> GgufHeader:
    """`data` is the whole (mapped) file. Raises SourceError on any fault."""
    cursor = _Cursor(path, data)
    magic, version = cursor.take(4), cursor.number("<I")
    if magic != b"GGUF":
        raise _fault(
            path,
            got=f"a file that starts with {magic!r}",
            expected="b'GGUF'",
            fix="name a GGUF file",
        )
    if version not in (2, 3):
        fix = "convert it again with current llama.cpp tools (little-endian)"
        raise _fault(path, got=f"version {version}", expected="2 or 3", fix=fix)
    num_tensors = cursor.count(MAX_TENSORS, 24, "tensors")
    num_keys = cursor.count(MAX_KEYS, 13, "metadata keys")
    metadata: dict[str, Any] = {}
    for _ in range(num_keys):
        key = cursor.name()
        if key in metadata:
            raise _fault(path, got=f"metadata key {key!r} twice", expected="once")
        metadata[key] = cursor.value()
    declared: dict[str, tuple[str, tuple[int, ...], int, int]] = {}
    for _ in range(num_tensors):
        name = cursor.name()
        if name in declared:
            raise _fault(path, got=f"tensor {name!r} twice", expected="once")
        declared[name] = _tensor_entry(cursor, name)
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 0 < alignment <= 1 << 16 or alignment % 8:
        raise _fault(path, got=f"general.alignment {alignment}", expected="a small multiple of 8")
    start = -(-cursor.position // alignment) * alignment
    tensors = {}
    for name, (type_name, shape, offset, size) in declared.items():
        if offset % alignment:
            raise _fault(
                path,
                got=f"tensor {name!r} at offset {offset}",
                expected=f"a multiple of {alignment}",
            )
        begin = start + offset
        if begin + size > len(data):
            expected = f"{begin + size} or more, by its tensor {name!r}"
            raise _fault(path, got=f"{len(data)} bytes", expected=expected)
        tensors[name] = GgufTensor(type_name, shape, begin, begin + size)
    _check_apart(path, tensors)
    return GgufHeader(metadata, tensors)


def _check_apart(path: Path, tensors: dict[str, GgufTensor]) -> None:
    """Bytes that thousands of tensors share would be written out thousands of times."""
    ordered = sorted(tensors.items(), key=lambda item: item[1].begin)
    for (_, before), (name, tensor) in pairwise(ordered):
        if tensor.begin < before.end:
            raise _fault(
                path,
                got=f"tensor {name!r} at byte {tensor.begin}",
                expected=f"{before.end} or more",
            )


def _tensor_entry(cursor: _Cursor, name: str) -> tuple[str, tuple[int, ...], int, int]:
    """(type, shape, offset, size in bytes)."""
    num_dims = cursor.number("<I")
    if not 1 <= num_dims <= MAX_DIMENSIONS:
        raise _fault(
            cursor.path, got=f"tensor {name!r} of {num_dims} dimensions", expected="1 to 4"
        )
    dims = [cursor.number("<Q") for _ in range(num_dims)]  # fastest first
    type_id, offset = cursor.number("<I"), cursor.number("<Q")
    kind = _readable_type(cursor.path, name, type_id)
    weights = math.prod(dims)
    if not all(dims) or weights >= 1 << 48 or dims[0] % kind.weights:
        expected = f"rows in whole blocks of {kind.weights}"
        raise _fault(
            cursor.path,
            got=f"tensor {name!r} of shape {dims[::-1]} ({kind.name})",
            expected=expected,
        )
    return kind.name, tuple(dims[::-1]), offset, weights // kind.weights * kind.num_bytes


def _readable_type(path: Path, name: str, type_id: int) -> BlockType:
    """Raises SourceError, which tells a type that is not supported from damage."""
    kind = types_by_id().get(type_id)
    if kind is None:
        raise _fault(
            path,
            got=f"tensor {name!r} of type {type_id}, which gguf {package_version()} does not know",
            expected="a type it knows",
            fix="if the file is whole, update the package gguf; else download it again",
        )
    if not is_readable(kind.name):
        raise _fault(
            path,
            got=f"tensor {name!r} of type {type_id}, {kind.name}, which is not supported",
            expected=f"one of {', '.join(readable_names())}",
            fix="the file is whole: use one of another quantization, for example Q8_0 or Q4_K_M",
        )
    return kind


class _Cursor:
    """Reads forward through the header; never past the end of the file."""

    def __init__(self, path: Path, data: NDArray[np.uint8]) -> None:
        self.path = path
        self.position = 0
        self._data = data.data  # slices of a mapped array cost four times as much
        self._strings_left = MAX_STRINGS

    def take(self, size: int) -> bytes:
        if size > len(self._data) - self.position:
            raise _fault(
                self.path, got=f"{len(self._data)} bytes", expected=f"{size} more, by its header"
            )
        begin = self.position
        self.position += size
        return self._data[begin : self.position].tobytes()

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def count(self, limit: int, item_bytes: int, what: str) -> int:
        """A u64 count of items that take at least `item_bytes` each."""
        value: int = self.number("<Q")
        if value > limit:
            raise _fault(self.path, got=f"{value} {what}", expected=f"at most {limit}")
        if value * item_bytes > len(self._data) - self.position:
            raise _fault(
                self.path, got=f"{len(self._data)} bytes", expected=f"room for {value} {what}"
            )
        return value

    def string(self, limit: int = MAX_STRING_BYTES) -> str:
        return self.take(self.count(limit, 1, "bytes of text")).decode("utf-8", errors="replace")

    def name(self) -> str:
        return self.string(MAX_NAME_BYTES)

    def value(self) -> Any:
        kind = self.number("<I")
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self._array()
        return self.number(self._scalar(kind))

    def _array(self) -> Any:
        kind = self.number("<I")
        if kind == _STRING:
            size = self.count(self._strings_left, 8, "strings")
            self._strings_left -= size
            return [self.string() for _ in range(size)]
        dtype = np.dtype(self._scalar(kind))  # an array of arrays ends here: no model needs one
        size = self.count(1 << 32, dtype.itemsize, "array items")
        return np.frombuffer(self.take(size * dtype.itemsize), dtype=dtype)

    def _scalar(self, kind: int) -> str:
        if kind not in _SCALARS:
            raise _fault(
                self.path, got=f"a metadata value of type {kind}", expected="a scalar or text"
            )
        return _SCALARS[kind]


def _fault(
    path: Path,
    *,
    got: str,
    expected: str,
    fix: str = "the file is damaged or incomplete; download it again",
) -> SourceError:
    return SourceError(f"GGUF file {path.name}", got=got, expected=expected, fix=fix)
