"""A GGUF model in one file, or in several that a splitting tool wrote: NAME-00001-of-00003.gguf.

Each part is a GGUF file whose metadata has `split.no` (from 0), `split.count` and, of all of them,
`split.tensors.count`; everything else that metadata says is in the first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfbyte.errors import SourceError, reraise_machine_fault, told
from halfbyte.importers.gguf_header import GgufHeader, parse_header

_PART_NAME = re.compile(r"(?P<stem>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf")


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as it lies in its file."""

    type_name: str
    shape: tuple[int, ...]  # [N, K] or [n]: the slowest dimension first
    raw: NDArray[np.uint8]  # its bytes, mapped


@dataclass(frozen=True, slots=True)
class GgufParts:
    """All files of a model as if they were one."""

    metadata: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]


def part_paths(first: Path) -> list[Path]:
    """The files there are of the model whose first is named; that one alone if it is not split."""
    found = _PART_NAME.fullmatch(first.name)
    if found is None or int(found["number"]) != 1:
        return [first]
    parts = []
    for path in first.parent.iterdir():
        other = _PART_NAME.fullmatch(path.name)
        if other and (other["stem"], other["count"]) == (found["stem"], found["count"]):
            parts.append(path)
    return sorted(parts)


def open_parts(path: Path) -> GgufParts:
    """Map and check every file. Raises SourceError."""
    data, header = _open(path)
    count = _split_number(path, header, "split.count", 1)
    tensors = dict(_stored(header, data))
    if count > 1:
        for number, other in _others(path, header, count):
            if not other.is_file():
                fix = "put every part of the model beside the first"
                raise _fault(other, "no such file", f"part {number + 1} of {count}", fix=fix)
            data, part = _open(other)
            _check_place(other, part, number, count)
            for name, tensor in _stored(part, data):
                if name in tensors:
                    raise _fault(other, f"tensor {name!r} in two parts", "once")
                tensors[name] = tensor
        total = _split_number(path, header, "split.tensors.count", len(tensors))
        if total != len(tensors):
            raise _fault(path, f"{len(tensors)} tensors in {count} parts", f"{total} of them")
    return GgufParts(header.metadata, tensors)


def _others(path: Path, header: GgufHeader, count: int) -> Iterator[tuple[int, Path]]:
    """(number from 0, path) of the parts after the first."""
    number = _split_number(path, header, "split.no", 0)
    name = _PART_NAME.fullmatch(path.name)
    if number:
        first = f"{name['stem']}-00001-of-{count:05d}.gguf" if name else "the first file"
        raise _fault(path, f"part {number + 1} of {count}", "part 1", fix=f"name {first}")
    if name is None or (int(name["number"]), int(name["count"])) != (1, count):
        fix = "give the files the names they were downloaded with"
        raise _fault(
            path, f"part 1 of {count}", f"a name that ends in -00001-of-{count:05d}.gguf", fix=fix
        )
    for other in range(1, count):
        yield other, path.with_name(f"{name['stem']}-{other + 1:05d}-of-{count:05d}.gguf")


def _check_place(path: Path, header: GgufHeader, number: int, count: int) -> None:
    said = (
        _split_number(path, header, "split.no", 0) + 1,
        _split_number(path, header, "split.count", 1),
    )
    if said != (number + 1, count):
        got = f"part {said[0]} of {said[1]} by its metadata"
        raise _fault(path, got, f"part {number + 1} of {count}, as it is named")


def _split_number(path: Path, header: GgufHeader, key: str, default: int) -> int:
    value = header.metadata.get(key, default)
    if type(value) is not int or not 0 <= value < 1 << 20:
        raise _fault(path, f"{key} {value!r}"[:80], "a number of parts")
    return value


def _open(path: Path) -> tuple[NDArray[np.uint8], GgufHeader]:
    try:
        if path.stat().st_size == 0:
            raise _fault(path, "an empty file", "a GGUF file")
        data: NDArray[np.uint8] = np.memmap(path, dtype=np.uint8, mode="r")
    except OSError as error:
        reraise_machine_fault(f"GGUF file {path.name}", error)
        raise _fault(path, told(error), "a readable file") from error
    return data, parse_header(path, data)


def _stored(header: GgufHeader, data: NDArray[np.uint8]) -> Iterator[tuple[str, StoredTensor]]:
    for name, tensor in header.tensors.items():
        raw = np.asarray(data[tensor.begin : tensor.end])
        yield name, StoredTensor(tensor.type_name, tensor.shape, raw)


def _fault(
    path: Path,
    got: object,
    expected: object,
    *,
    fix: str = "the file is damaged or of another kind; download it again",
) -> SourceError:
    return SourceError(f"GGUF file {path.name}", got=got, expected=expected, fix=fix)
