"""The model of a GGUF file with weights that lie on no quantizer's grid.

    python -m benchmarks.off_grid SRC.gguf DEST.gguf

A file that is quantized already flatters whoever quantizes it again to its own grid: its values
come back exactly. Channels scaled by random factors between 4/5 and 5/4, the scale folded into what
makes the channel (a norm, v for the output projection, up for the down projection), compute the
same function with other weights. DEST holds them as F16; it is a source of its own, for halfbyte
and for other programs alike, as fine as an unquantized file and as good as the coarse one.

Needs the extra [bench]. A tied head stays as it is.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from benchmarks.process import guarded
from halfbyte.errors import SourceError

F32 = NDArray[np.float32]
_LARGEST = 1.25
_SEED = 1


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
    folds = scales_of(
        {t.name: tuple(int(n) for n in reversed(t.shape)) for t in reader.tensors}, heads, kv_heads
    )
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
        made = scaled(tensor.name, values, folds)
        writer.write_tensor_data(made.astype(kinds[tensor.name]))
    writer.close()
    print(f"{arguments.dest}: {len(names)} tensors")


def scales_of(
    shapes: Mapping[str, tuple[int, ...]], heads: int, kv_heads: int
) -> dict[str, tuple[F32 | None, F32 | None]]:
    """Tensor -> what its inputs (columns) are multiplied and its outputs divided by."""
    random = np.random.default_rng(_SEED)

    def draw(count: int) -> F32:
        logs = random.uniform(-np.log(_LARGEST), np.log(_LARGEST), count)
        return np.exp(logs).astype(np.float32)

    found: dict[str, tuple[F32 | None, F32 | None]] = {}
    layers = sum(name.endswith(".attn_norm.weight") for name in shapes)
    for layer in range(layers):
        own = f"blk.{layer}."
        hidden, inner = shapes[f"{own}ffn_down.weight"]
        read, mixed, hid = draw(hidden), draw(hidden), draw(inner)
        rows = shapes[f"{own}attn_v.weight"][0]
        value = draw(rows)
        # Query heads that share a KV head read its values side by side.
        per_head = value.reshape(kv_heads, 1, -1)
        group = heads // kv_heads
        joined = np.broadcast_to(per_head, (kv_heads, group, per_head.shape[2])).reshape(-1)
        found |= {
            f"{own}attn_norm.weight": (None, read),
            f"{own}attn_q.weight": (read, None),
            f"{own}attn_k.weight": (read, None),
            f"{own}attn_v.weight": (read, value),
            f"{own}attn_v.bias": (None, value),
            f"{own}attn_output.weight": (joined, None),
            f"{own}ffn_norm.weight": (None, mixed),
            f"{own}ffn_gate.weight": (mixed, None),
            f"{own}ffn_up.weight": (mixed, hid),
            f"{own}ffn_down.weight": (hid, None),
        }
    if "output.weight" in shapes:
        final = draw(shapes["output.weight"][1])
        found |= {"output_norm.weight": (None, final), "output.weight": (final, None)}
    return {name: parts for name, parts in found.items() if name in shapes}


def scaled(name: str, values: F32, folds: Mapping[str, tuple[F32 | None, F32 | None]]) -> F32:
    """A tensor with its inputs and outputs scaled; norms and biases have outputs alone."""
    inputs, outputs = folds.get(name, (None, None))
    if inputs is not None:
        values = values * inputs
    if outputs is not None:
        values = values / (outputs[:, None] if values.ndim == 2 else outputs)
    return values


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
