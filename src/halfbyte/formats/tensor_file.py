"""Read (memory-mapped) and write one safetensors file. Headers are treated as hostile.

The file is a little-endian u64 header length, a JSON object name -> {dtype, shape, data_offsets},
and the data.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfbyte.errors import FormatError, reraise_machine_fault, told

# A 100-layer model in one file needs under 1 MiB, and a JSON value can take 20 times its text.
MAX_HEADER_BYTES = 8 << 20
MAX_DIMENSIONS = 8
_NUMPY_DTYPES: dict[str, np.dtype[Any]] = {
    "U8": np.dtype(np.uint8),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "F32": np.dtype("<f4"),
    "I8": np.dtype(np.int8),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
}
# Sizes of every dtype a foreign file may also hold, so that its layout can be checked.
_ITEM_BITS = {"BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I16": 16, "U16": 16}
_ITEM_BITS |= {"U32": 32, "F64": 64, "U64": 64, "F4": 4, "C64": 64}
_ITEM_BITS |= {name: dtype.itemsize * 8 for name, dtype in _NUMPY_DTYPES.items()}


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a checked header."""

    dtype: str  # as safetensors spells it: F32, F16, BF16, U8 …
    shape: tuple[int, ...]
    begin: int  # byte offsets in the file
    end: int


class TensorFile:
    """A checked header over a read-only mapping."""

    def __init__(self, path: Path, entries: dict[str, TensorEntry], mapping: mmap.mmap) -> None:
        self.path = path
        self.entries = entries
        self._mapping = mapping
        self._data: NDArray[np.uint8] = np.frombuffer(mapping, dtype=np.uint8)

    @classmethod
    def open(cls, path: Path) -> TensorFile:
        """Raises FormatError: missing-file, bad-header, header-too-large, bad-entry, truncated."""
        try:
            size = path.stat().st_size
            if size < 8:
                raise _fault("truncated", path, got=f"{size} bytes", expected="at least 8")
            with path.open("rb") as file:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            reraise_machine_fault(f"safetensors file {path.name}", error)
            raise _fault(
                "missing-file", path, got=told(error), expected="a readable file"
            ) from error
        (length,) = struct.unpack("<Q", data[:8])
        if length > MAX_HEADER_BYTES:
            raise _fault(
                "header-too-large",
                path,
                got=f"{length} bytes",
                expected=f"at most {MAX_HEADER_BYTES}",
            )
        if 8 + length > size:
            raise _fault(
                "truncated", path, got=f"{size} bytes", expected=f"a header of {length} bytes"
            )
        entries = _parse_header(path, data[8 : 8 + length], 8 + length, size)
        return cls(path, entries, data)

    def array(self, name: str) -> NDArray[Any]:
        """A read-only view; BF16 as uint16 bits. Floats of 16 and 32 bits, U8, I8, I32, I64."""
        entry = self.entries[name]
        raw = self._data[entry.begin : entry.end]
        dtype = _NUMPY_DTYPES[entry.dtype]
        if entry.begin % dtype.itemsize:
            raw = raw.copy()  # the format does not promise alignment
        typed: NDArray[Any] = raw.view(dtype)
        return typed.reshape(entry.shape)

    def named(self, names: Mapping[str, str]) -> TensorFile:
        """Some of the tensors by other names: name there -> name here."""
        entries = {new: self.entries[old] for old, new in names.items()}
        return TensorFile(self.path, entries, self._mapping)

    def unload(self) -> None:
        """Take the pages read so far out of this process; a later access reads them again."""
        self._mapping.madvise(mmap.MADV_DONTNEED)


def write_tensor_file(path: Path, tensors: Mapping[str, tuple[str, NDArray[Any]]]) -> int:
    """Write name -> (dtype, array) and flush it to disk; returns the file's size in bytes."""
    header: dict[str, Any] = {}
    # Widest items first, so that every tensor is aligned to its own item.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1][1].itemsize, item[0]))
    position = 0
    for name, (dtype, array) in ordered:
        header[name] = {
            "dtype": dtype,
            "shape": list(array.shape),
            "data_offsets": [position, position + array.nbytes],
        }
        position += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, (dtype, array) in ordered:
            file.write(np.ascontiguousarray(array, dtype=_NUMPY_DTYPES[dtype]).data)
        file.flush()
        os.fsync(file.fileno())
    return 8 + len(text) + position


def _parse_header(path: Path, text: bytes, start: int, size: int) -> dict[str, TensorEntry]:
    try:
        header = json.loads(text, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise _fault("bad-header", path, got=f"{error}", expected="a JSON object") from error
    if not isinstance(header, dict):
        raise _fault("bad-header", path, got=type(header).__name__, expected="a JSON object")
    header.pop("__metadata__", None)
    entries = {name: _parse_entry(path, name, value, start) for name, value in header.items()}
    position = start
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != position:
            what = f"tensor {name!r} at byte {entry.begin}"
            raise _fault(
                "bad-entry", path, got=what, expected=f"byte {position} (no gap, no overlap)"
            )
        position = entry.end
    if position != size:
        raise _fault("truncated", path, got=f"{size} bytes", expected=f"{position} by its header")
    return entries


def _parse_entry(path: Path, name: str, value: Any, start: int) -> TensorEntry:
    expected = "{dtype, shape, data_offsets} that agree with each other"
    try:
        dtype, shape, (begin, end) = value["dtype"], value["shape"], value["data_offsets"]
        integers = [begin, end, *shape]
        bits = _ITEM_BITS[dtype]
    except (TypeError, KeyError, ValueError) as error:
        raise _fault("bad-entry", path, got=f"tensor {name!r}", expected=expected) from error
    if (
        not all(type(x) is int and 0 <= x < 1 << 48 for x in integers)
        or len(shape) > MAX_DIMENSIONS
    ):
        raise _fault("bad-entry", path, got=f"tensor {name!r}", expected=expected)
    if math.prod(shape) * bits != (end - begin) * 8:
        got = f"tensor {name!r} of shape {shape} ({dtype}) in {end - begin} bytes"
        raise _fault("bad-entry", path, got=got, expected=expected)
    return TensorEntry(dtype, tuple(shape), start + begin, start + end)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key twice in one object")
    return result


def _fault(name: str, path: Path, *, got: object, expected: object) -> FormatError:
    fix = "the file is damaged or incomplete: copy, download or convert it again"
    return FormatError(name, f"safetensors file {path.name}", got=got, expected=expected, fix=fix)
