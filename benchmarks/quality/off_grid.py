"""The model of a GGUF file with weights that lie on no quantizer's grid.

    python -m benchmarks.quality.off_grid SRC.gguf DEST.gguf

A file that is quantized already flatters any format that quantizes it again on the same grid: its
values come back exactly. Two changes that leave the function as it is take them off that grid.

- Channels are scaled by random factors between 4/5 and 5/4, the scale folded into what makes the
  channel (a norm, v for the output projection, up for the down projection).
- Channels are shuffled: those of the residual stream, of each layer's hidden row and of each head's
  values. Scaled alone, a block of 32 inputs still lies near the scale and the minimum that the file
  gave it (small weights move by less than a step), and a format of the same blocks finds them.

DEST holds the weights as F16; it is a source of its own, for halfbyte and for other programs alike,
as fine as an unquantized file and as good as the coarse one.

Needs the extra [bench]. The embedding, and with it a tied head, is shuffled only.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from benchmarks.measure.process import guarded
from halfbyte.errors import SourceError

F32 = NDArray[np.float32]
Order = NDArray[np.int64]
_LARGEST = 1.25
_SEED = 1


@dataclass(frozen=True, slots=True)
class Fold:
    """What is done to a tensor; None: nothing. Scales come before orders."""

    multiply: F32 | None = None  # inputs (columns)
    divide: F32 | None = None  # outputs
    inputs: Order | None = None  # new column -> old
    outputs: Order | None = None  # new row, or entry of a vector -> old


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("source", type=Path)
    parser.add_argument("dest", type=Path)
    arguments = parser.parse_args()
    reader = gguf.GGUFReader(arguments.source)
    heads, kv_heads = (
        int(_number(reader, name)) for name in ("attention.head_count", "attention.head_count_kv")
    )
    names = {tensor.name for tensor in reader.tensors}
    shapes = {t.name: tuple(int(n) for n in reversed(t.shape)) for t in reader.tensors}
    folds = shuffled(scales_of(shapes, heads, kv_heads), shapes, heads, kv_heads)
    writer = gguf.GGUFWriter(arguments.dest, str(reader.fields["general.architecture"].contents()))
    _copy_metadata(reader, writer)
    kinds = {}
    for tensor in reader.tensors:
        shape = tuple(int(n) for n in reversed(tensor.shape))
        kinds[tensor.name] = np.dtype(np.float16 if len(shape) == 2 else np.float32)
        size = int(np.prod(shape)) * kinds[tensor.name].itemsize
        writer.add_tensor_info(tensor.name, shape, kinds[tensor.name], size)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        made = folded(values, folds.get(tensor.name, Fold()))
        writer.write_tensor_data(made.astype(kinds[tensor.name]))
    writer.close()
    print(f"{arguments.dest}: {len(names)} tensors")


def scales_of(shapes: Mapping[str, tuple[int, ...]], heads: int, kv_heads: int) -> dict[str, Fold]:
    """Tensor -> what its inputs are multiplied and its outputs divided by."""
    random = np.random.default_rng(_SEED)

    def draw(count: int) -> F32:
        logs = random.uniform(-np.log(_LARGEST), np.log(_LARGEST), count)
        return np.exp(logs).astype(np.float32)

    found: dict[str, Fold] = {}
    for layer in range(_layers(shapes)):
        own = f"blk.{layer}."
        hidden, inner = shapes[f"{own}ffn_down.weight"]
        read, mixed, hid = draw(hidden), draw(hidden), draw(inner)
        value = draw(shapes[f"{own}attn_v.weight"][0])
        found |= {
            f"{own}attn_norm.weight": Fold(divide=read),
            f"{own}attn_q.weight": Fold(read),
            f"{own}attn_k.weight": Fold(read),
            f"{own}attn_v.weight": Fold(read, value),
            f"{own}attn_v.bias": Fold(divide=value),
            f"{own}attn_output.weight": Fold(value[_read_by_heads(len(value), heads, kv_heads)]),
            f"{own}ffn_norm.weight": Fold(divide=mixed),
            f"{own}ffn_gate.weight": Fold(mixed),
            f"{own}ffn_up.weight": Fold(mixed, hid),
            f"{own}ffn_down.weight": Fold(hid),
        }
    if "output.weight" in shapes:
        final = draw(shapes["output.weight"][1])
        found |= {"output_norm.weight": Fold(divide=final), "output.weight": Fold(final)}
    return {name: fold for name, fold in found.items() if name in shapes}


def shuffled(
    folds: Mapping[str, Fold], shapes: Mapping[str, tuple[int, ...]], heads: int, kv_heads: int
) -> dict[str, Fold]:
    """The same with channels in random orders: residual stream, hidden rows, values of a head."""
    random = np.random.default_rng(_SEED + 1)
    found = dict(folds)

    def put(name: str, inputs: Order | None = None, outputs: Order | None = None) -> None:
        if name in shapes:
            found[name] = replace(found.get(name, Fold()), inputs=inputs, outputs=outputs)

    stream = random.permutation(shapes["token_embd.weight"][1])
    put("token_embd.weight", stream)
    put("output_norm.weight", outputs=stream)
    put("output.weight", stream)
    for layer in range(_layers(shapes)):
        own = f"blk.{layer}."
        inner = random.permutation(shapes[f"{own}ffn_down.weight"][1])
        rows = shapes[f"{own}attn_v.weight"][0]
        size = rows // kv_heads
        value = np.concatenate([h * size + random.permutation(size) for h in range(kv_heads)])
        # New input of the output projection -> the KV head's channel -> old input of the same head.
        read = _read_by_heads(rows, heads, kv_heads)
        mixed = np.arange(heads * size) // size * size + value[read] % size
        put(f"{own}attn_norm.weight", outputs=stream)
        put(f"{own}ffn_norm.weight", outputs=stream)
        for name in ("attn_q", "attn_k"):
            put(f"{own}{name}.weight", stream)
        put(f"{own}attn_v.weight", stream, value)
        put(f"{own}attn_v.bias", outputs=value)
        put(f"{own}attn_output.weight", mixed, stream)
        for name in ("ffn_gate", "ffn_up"):
            put(f"{own}{name}.weight", stream, inner)
        put(f"{own}ffn_down.weight", inner, stream)
    return found


def folded(values: F32, fold: Fold) -> F32:
    """A tensor [N, K], or a norm or bias [n], which has outputs alone."""
    if fold.multiply is not None:
        values = values * fold.multiply
    if fold.divide is not None:
        values = values / (fold.divide[:, None] if values.ndim == 2 else fold.divide)
    if fold.inputs is not None:
        values = values[:, fold.inputs]
    return values if fold.outputs is None else values[fold.outputs]


def _layers(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return sum(name.endswith(".attn_norm.weight") for name in shapes)


def _read_by_heads(rows: int, heads: int, kv_heads: int) -> Order:
    """Input of the output projection -> the row of v it is: heads that share a KV head follow."""
    each = np.arange(rows).reshape(kv_heads, 1, -1)
    return np.broadcast_to(each, (kv_heads, heads // kv_heads, rows // kv_heads)).reshape(-1)


def _copy_metadata(reader: gguf.GGUFReader, writer: gguf.GGUFWriter) -> None:
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == gguf.Keys.General.ARCHITECTURE:
            continue
        kind = field.types[0]
        items = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        value = field.contents()
        if field.name == gguf.Keys.General.FILE_TYPE:
            value = int(gguf.LlamaFileType.MOSTLY_F16)
        writer.add_key_value(field.name, value, kind, sub_type=items)


def _number(reader: gguf.GGUFReader, name: str) -> int:
    for field in reader.fields.values():
        if field.name.endswith(f".{name}"):
            return int(field.contents())
    raise SourceError("GGUF file", got=f"no {name}", expected="a model", fix="name another file")


if __name__ == "__main__":
    guarded(main)
