"""Small random changes to files: of bytes, of JSON trees, of members of a directory."""

from __future__ import annotations

import copy
import json
import random
import struct
from collections.abc import Callable
from typing import Any

from tests.fuzz.gguf_tree import change_gguf

Files = dict[str, bytes]  # a directory: name -> content

_ODD_BYTES = (
    b"\0", b"\xff", b"\x80", b"\x7f", b"\0" * 8, b"\xff" * 8, b"\xff\xff\xff\x7f", b"\0\0\0\x80",
    b"\xed\xa0\xbd", b"\xc0\xaf", b"{", b"[", b'"', b"\\ud83d", b"1e999", b"NaN", b"-0",
)  # fmt: skip
_ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 16, 32, 64, 255, 256, 1 << 24, (1 << 31) - 1, 1 << 31,
    1 << 32, 1 << 63, 1 << 64, -(1 << 63), 10**30, 0.5, -0.0, 1e-45, 1e-30, 1e30, 1e308,
    float("nan"), float("inf"), "", "x", "x" * 300, "\ud83d", "\0", "../x", "\u2028", [], [[]], {},
    [0], [-1], ["x"], {"a": 1}, [None], [1, 1], {"type": "x"},
)  # fmt: skip


def changed(rng: random.Random, files: Files, others: list[Files]) -> Files:
    """One to four changes to some of the files; parts may come from other directories."""
    files = dict(files)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        name = rng.choice(sorted(files))
        content = files[name]
        other = rng.choice(others).get(name, content)
        by_form = FORMS.get(name.rpartition(".")[2])
        made = by_form(rng, content) if by_form and rng.random() < 0.75 else None
        files[name] = _bytes(rng, content, other) if made is None else made
    return files


def _bytes(rng: random.Random, content: bytes, other: bytes) -> bytes:
    data = bytearray(content)
    # most of what matters stands in the first kilobytes: counts, names, lengths
    reach = len(data) if rng.random() < 0.3 else min(len(data), 4096)
    at = rng.randrange(reach + 1)
    size = rng.choice((1, 1, 2, 4, 8, 16, 64))
    kind = rng.randrange(9)
    if kind == 0:
        data[at : at + 1] = bytes([rng.randrange(256)])
    elif kind == 1 and at < len(data):
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 2:
        odd = rng.choice(_ODD_BYTES)
        data[at : at + len(odd)] = odd
    elif kind == 3:
        data[at:at] = rng.choice(_ODD_BYTES)
    elif kind == 4:
        del data[at : at + size]
    elif kind == 5:
        del data[at:]
    elif kind == 6:
        begin = rng.randrange(len(data) + 1)
        data[at:at] = data[begin : begin + size]
    elif kind == 7:
        begin = rng.randrange(len(other) + 1)
        data[at : at + size] = other[begin : begin + size]
    else:
        form = rng.choice(("<I", "<Q", "<H"))
        width = struct.calcsize(form)
        if at + width <= len(data):
            (value,) = struct.unpack_from(form, data, at)
            value += rng.choice((-1, 1, -8, 8, 1 << 16, -(1 << 16), value))
            struct.pack_into(form, data, at, value % (1 << (8 * width)))
    return bytes(data)


def _json(rng: random.Random, content: bytes) -> bytes | None:
    """A change to a value, a key or a list somewhere in the tree; None: it is no JSON."""
    try:
        tree = json.loads(content)
    except (ValueError, RecursionError):
        return None
    holders = [node for node in _nodes(tree) if node]
    if not holders:
        return json.dumps(rng.choice(_ODD_VALUES)).encode()
    holder = rng.choice(holders)
    keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
    key = rng.choice(keys)
    kind = rng.randrange(6)
    if kind == 0:
        del holder[key]
    elif kind == 1:
        holder[key] = copy.deepcopy(rng.choice(_nodes(tree)))
    elif kind == 2 and isinstance(holder, dict):
        holder[rng.choice(("x", "", "\ud83d", *map(str, keys)))] = holder[key]
    elif kind == 3 and isinstance(holder, list):
        holder.insert(key, copy.deepcopy(holder[key]))
    elif kind == 4 and isinstance(holder[key], int | float):
        holder[key] = rng.choice((holder[key] + 1, holder[key] - 1, -holder[key], holder[key] * 2))
    else:
        holder[key] = rng.choice(_ODD_VALUES)
    try:
        return json.dumps(tree).encode()
    except (ValueError, RecursionError):  # a tree inside itself
        return content


def _nodes(tree: Any) -> list[Any]:
    """Every list and object of a tree, in a fixed order; at most a thousand."""
    found, waiting = [], [tree]
    while waiting and len(found) < 1000:
        node = waiting.pop()
        if isinstance(node, dict | list):
            found.append(node)
            waiting += list(node.values()) if isinstance(node, dict) else node[:50]
    return found


def _safetensors(rng: random.Random, content: bytes) -> bytes | None:
    """A change to the header alone, whose length stays right."""
    if len(content) < 8:
        return None
    (length,) = struct.unpack("<Q", content[:8])
    header = _json(rng, content[8 : 8 + length]) if length < len(content) else None
    if header is None:
        return None
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


_JINJA = (
    rb"{% if x %}", rb"{% endif %}{% else %}", rb"{% elif m.role == 'tool' %}",
    rb"{% for m in messages %}", rb"{% endfor %}", rb"{% set x = messages %}",
    rb"{% set ns.x = ns.x + 1 %}", rb"{% macro f(x) %}{{ f(x) }}{% endmacro %}",
    rb"{% generation %}{% endgeneration %}", rb"{{ {%- -%} -}} {# #}",
    rb"{% raw %}{% break %}{% continue %}", rb"{{ loop.index0 ~ loop.previtem }}",
    rb"{{ messages[::-1] | tojson(indent=2) }}",
    rb"{{ messages[-1].content.split('x')[0].strip() }}",
    rb"{{ m.items() | list | join(', ') | trim }}",
    rb" | selectattr('role', 'equalto', 'user') | list",
    rb" | map(attribute='content') | list | last", rb" | replace('a', 'b') | default('x') | safe",
    rb" | int | string | length | upper | first", rb"{{ raise_exception('x') }}",
    rb"{{ strftime_now('%Y %%') }}", rb"{{ range(10**9) | list }}{{ 'a' * 10**9 }}",
    rb"{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    rb"{{ 9**9**9 }}{{ 1 // 0 }}", rb"{{ ''.__class__.mro() }}",
    rb"{{ '{:>999999999}'.format(1) }}",
    rb"{% call f() %}{% endcall %}{% include 'x' %}{% import 'x' as y %}", rb"<tool_call>",
    rb"<think>", rb"<|im_end|>", rb"[/INST]",
)  # fmt: skip


def _jinja(rng: random.Random, content: bytes) -> bytes:
    """A word of the language put in, or in place of something short, or a part moved."""
    data = bytearray(content)
    at, size = rng.randrange(len(data) + 1), rng.choice((0, 0, 1, 4, 20))
    if rng.random() < 0.7:
        data[at : at + size] = rng.choice(_JINJA)
    else:
        begin = rng.randrange(len(data) + 1)
        data[at : at + size] = data[begin : begin + rng.choice((5, 30, 200))]
    return bytes(data)


FORMS: dict[str, Callable[[random.Random, bytes], bytes | None]] = {
    "json": _json,
    "safetensors": _safetensors,
    "gguf": change_gguf,
    "jinja": _jinja,
}
