"""Changes to a GGUF file that keep it in form: metadata values and types, tensors' entries."""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass, replace
from typing import Any

_FORMS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_ODD_NUMBERS = (
    0,
    1,
    2,
    3,
    7,
    16,
    31,
    33,
    64,
    127,
    255,
    256,
    65535,
    1 << 24,
    (1 << 31) - 1,
    1 << 31,
)
_ODD_FLOATS = (0.0, -0.0, 1e-45, 1e-30, 1e30, 3e38, float("inf"), float("nan"), -1.0, 0.5)
_ODD_TEXTS = (
    b"",
    b"x",
    b"\\xff",
    b"\\xed\\xa0\\xbd",
    b"llama",
    b"qwen3",
    b"gpt2",
    b"none",
    b"y" * 300,
)


@dataclass(frozen=True, slots=True)
class _Value:
    kind: int
    value: Any  # bytes of a string, a number, or (kind, list) of an array


@dataclass(frozen=True, slots=True)
class _Tensor:
    name: bytes
    dims: list[int]
    kind: int
    offset: int


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def number(self, form: str) -> Any:
        (value,) = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return value

    def text(self) -> bytes:
        size = self.number("Q")
        if size > len(self.data):
            raise ValueError("no string")
        self.at += size
        return self.data[self.at - size : self.at]

    def value(self) -> _Value:
        kind = self.number("I")
        if kind == _ARRAY:
            inner, size = self.number("I"), self.number("Q")
            if size > len(self.data):
                raise ValueError("no array")
            return _Value(kind, (inner, [self._item(inner) for _ in range(size)]))
        return _Value(kind, self._item(kind))

    def _item(self, kind: int) -> Any:
        return self.text() if kind == _STRING else self.number(_FORMS[kind])


def change_gguf(rng: random.Random, content: bytes) -> bytes | None:
    """The file with one entry changed; None: it is not in form."""
    reader = _Reader(content)
    try:
        version, num_tensors, num_keys = struct.unpack_from("<IQQ", content, 4)
        reader.at = 24
        keys = [(reader.text(), reader.value()) for _ in range(num_keys)]
        tensors = [_tensor(reader) for _ in range(num_tensors)]
    except (ValueError, KeyError, struct.error, OverflowError):
        return None
    start = -(-reader.at // 32) * 32
    if keys and (rng.random() < 0.6 or not tensors):
        _change_keys(rng, keys)
    elif tensors:
        _change_tensors(rng, tensors)
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys))
    head += b"".join(_text(key) + _written(value) for key, value in keys)
    head += b"".join(_entry(tensor) for tensor in tensors)
    return head + b"\\0" * (-len(head) % 32) + content[start:]


def _tensor(reader: _Reader) -> _Tensor:
    name, count = reader.text(), reader.number("I")
    if count > 8:
        raise ValueError("no tensor")
    dims = [reader.number("Q") for _ in range(count)]
    return _Tensor(name, dims, reader.number("I"), reader.number("Q"))


def _change_keys(rng: random.Random, keys: list[tuple[bytes, _Value]]) -> None:
    at = rng.randrange(len(keys))
    key, value = keys[at]
    kind = rng.randrange(6)
    if kind == 0:
        del keys[at]
    elif kind == 1:
        keys.insert(rng.randrange(len(keys)), (rng.choice(keys)[0], value))
    elif kind == 2:
        keys[at] = key, rng.choice(keys)[1]
    elif kind == 3:
        keys[at] = key, _odd_value(rng)
    else:
        keys[at] = key, _nearby(rng, value)


def _nearby(rng: random.Random, value: _Value) -> _Value:
    """Another value of the same type, or of a part of an array."""
    if value.kind == _ARRAY:
        inner, items = value.value
        items = list(items)
        if not items:
            return _odd_value(rng)
        at, kind = rng.randrange(len(items)), rng.randrange(4)
        if kind == 0:
            del items[at]
        elif kind == 1:
            items.insert(at, items[at])
        elif kind == 2:
            items[at] = rng.choice(items)
        else:
            items[at] = _nearby(rng, _Value(inner, items[at])).value
        return replace(value, value=(inner, items))
    if value.kind == _STRING:
        return replace(value, value=rng.choice((*_ODD_TEXTS, value.value + b"x", value.value[1:])))
    if value.kind in (6, 12):
        return replace(value, value=rng.choice((*_ODD_FLOATS, value.value * 2)))
    size = 8 * struct.calcsize(_FORMS[value.kind])
    number = rng.choice((*_ODD_NUMBERS, value.value + 1, value.value - 1, value.value * 2))
    number %= 1 << size
    is_signed = _FORMS[value.kind].islower()
    return replace(
        value, value=number - (1 << size) if is_signed and number >> (size - 1) else number
    )


def _odd_value(rng: random.Random) -> _Value:
    kind = rng.choice((*_FORMS, _STRING, _ARRAY))
    if kind == _STRING:
        return _Value(kind, rng.choice(_ODD_TEXTS))
    if kind == _ARRAY:
        inner = rng.choice((0, 4, 5, 6, 7, 8, 10))
        one = _nearby(rng, _Value(inner, b"a" if inner == _STRING else 1)).value
        return _Value(kind, (inner, [one] * rng.choice((0, 1, 2, 9, 32))))
    return _nearby(rng, _Value(kind, 1))


def _change_tensors(rng: random.Random, tensors: list[_Tensor]) -> None:
    at = rng.randrange(len(tensors))
    tensor, other = tensors[at], rng.choice(tensors)
    kind = rng.randrange(7)
    if kind == 0:
        del tensors[at]
    elif kind == 1:
        tensors.append(tensor)
    elif kind == 2:
        tensors[at] = replace(tensor, name=rng.choice((other.name, tensor.name + b"x", b"")))
    elif kind == 3:
        dims = list(tensor.dims) or [1]
        which = rng.randrange(len(dims))
        dims[which] = rng.choice(
            (*_ODD_NUMBERS, dims[which] * 2, dims[which] // 2, dims[which] + 1)
        )
        tensors[at] = replace(
            tensor, dims=rng.choice((dims, tensor.dims[::-1], [*dims, 1], dims[1:]))
        )
    elif kind == 4:
        tensors[at] = replace(tensor, kind=rng.choice((*range(42), 1 << 31)))
    elif kind == 5:
        moved = rng.choice((0, 32, other.offset, tensor.offset + 32, (1 << 64) - 32))
        tensors[at] = replace(tensor, offset=moved)
    else:
        tensors[at] = replace(tensor, dims=other.dims, kind=other.kind)


def _text(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _written(value: _Value) -> bytes:
    head = struct.pack("<I", value.kind)
    if value.kind != _ARRAY:
        return head + _item(value.kind, value.value)
    inner, items = value.value
    return head + struct.pack("<IQ", inner, len(items)) + b"".join(_item(inner, x) for x in items)


def _item(kind: int, value: Any) -> bytes:
    return _text(value) if kind == _STRING else struct.pack("<" + _FORMS[kind], value)


def _entry(tensor: _Tensor) -> bytes:
    dims = b"".join(struct.pack("<Q", dim % (1 << 64)) for dim in tensor.dims)
    head = _text(tensor.name) + struct.pack("<I", len(tensor.dims)) + dims
    return head + struct.pack("<IQ", tensor.kind, tensor.offset % (1 << 64))
