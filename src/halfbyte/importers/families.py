"""Where a tensor of ours lies in a file of its family: name, shape, rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from halfbyte.config import Attention, Experts, ModelConfig
from halfbyte.formats.names import expected_tensors, layer_tensors
from halfbyte.importers.architectures import BY_NAME, Family
from halfbyte.importers.architectures.family import PLAIN

_OUTER = {
    "embed": "model.embed_tokens",
    "inputs.embed": "model.embed_tokens_per_layer",
    "inputs.project": "model.per_layer_model_projection",
    "inputs.norm": "model.per_layer_projection_norm",
    "norm.final": "model.norm",
    "head": "lm_head",
}
_PLAIN = BY_NAME["llama"]


@dataclass(frozen=True, slots=True)
class Place:
    """Rows of one tensor in a file, or of one for each expert.

    A tensor of three dimensions is its matrices one after the other, each turned over where
    `transposed`. Row r of ours is row `first + order[r]` of all of them.
    """

    tensors: tuple[str, ...]
    shape: tuple[int, ...]  # of each, as the file says it
    first: int = 0
    order: NDArray[np.int64] | None = None  # None: as they are
    transposed: bool = False
    offset: float = 0.0  # what a vector's values lack
    count: int = 0  # rows of ours
    times: str = ""  # a tensor that every row is times, and K ** -0.5 with it

    @property
    def block_rows(self) -> int:
        """Rows of one matrix."""
        return self.shape[-1] if self.transposed else self.shape[-2]

    def rows(self, begin: int, end: int) -> NDArray[np.int64] | slice:
        """Theirs of our rows begin .. end."""
        if self.order is None:
            return slice(self.first + begin, self.first + end)
        return self.first + self.order[begin:end]


def hugging_face_name(name: str, family: Family = _PLAIN) -> str:
    """Checkpoint name -> Hugging Face name: `model.layers.3.self_attn.q_proj.weight`."""
    base, suffix = _split_suffix(name)
    if base in _OUTER:
        return f"{_OUTER[base]}.{suffix}"
    _, index, part = base.split(".", 2)
    found = _module(family, part)
    if found.startswith("="):
        return f"model.layers.{index}.{found[1:]}" + ("_bias" if suffix == "bias" else "")
    return f"model.layers.{index}.{found}.{suffix}"


def gguf_name(name: str, family: Family = _PLAIN) -> str:
    """Checkpoint name -> GGUF name: `layers.3.attn.q` -> `blk.3.attn_q.weight`."""
    base, suffix = _split_suffix(name)
    if base in _OUTER:
        return f"{_gguf_base(family.gguf, _OUTER[base])}.{suffix}"
    _, index, part = base.split(".", 2)
    module = family.gguf_names.get(part) or _module(family, part).removeprefix("=")
    inside = _gguf_base(family.gguf, f"model.layers.0.{module.replace('.{e}', '')}")
    return f"{inside.replace('blk.0.', f'blk.{index}.', 1)}.{suffix}"


def places(config: ModelConfig, family: Family, *, gguf: bool) -> Iterator[tuple[str, Place]]:
    """(our name, where it lies) of every tensor, in the order of `expected_tensors`."""
    for name, shape in expected_tensors(config):
        yield name, replace(_place(config, family, name, shape, gguf=gguf), count=shape[0])


def _place(
    config: ModelConfig, family: Family, name: str, shape: tuple[int, ...], *, gguf: bool
) -> Place:
    theirs = gguf_name(name, family) if gguf else hugging_face_name(name, family)
    offset = _offset(name, family, gguf=gguf)
    if not name.startswith("layers."):
        return Place((theirs,), shape, offset=offset)
    index, _, part = name.removeprefix("layers.").partition(".")
    layer = config.layer(int(index))
    inner = layer.feed_forward
    if isinstance(inner, Experts):
        if part == "mlp.router":
            times = family.router_scale and f"model.layers.{index}.{family.router_scale}"
            return Place((theirs,), (inner.count, config.hidden_size), times=times)
        if part.startswith(("mlp.gate", "mlp.up", "mlp.down")):
            return _of_experts(part, theirs, shape, inner.count, family, gguf=gguf)
    first, rows = _fused(config, int(index), part, family)
    order = None
    if family.interleaved == "both" or (gguf and family.interleaved):
        order = _turned(part.removesuffix(".bias"), layer.mixer)
    return Place((theirs,), (rows, *shape[1:]), first, order, offset=offset)


def half_split_rows(
    num_heads: int, head_dim: int, rotary_dim: int | None = None
) -> NDArray[np.int64]:
    """Row r of q or k in our order is row result[r] of a file that interleaves: [num_heads * D].

    Such a head keeps RoPE pairs side by side, we keep them half of what is rotated apart:

        theirs   a0 b0 a1 b1 …  rest        ours   a0 a1 … b0 b1 …  rest
    """
    rotated = rotary_dim or head_dim
    rows = np.arange(num_heads * head_dim).reshape(num_heads, head_dim)
    pairs = rows[:, :rotated].reshape(num_heads, rotated // 2, 2).swapaxes(1, 2)
    return np.concatenate([pairs.reshape(num_heads, rotated), rows[:, rotated:]], axis=1).reshape(
        -1
    )


def _split_suffix(name: str) -> tuple[str, str]:
    return (name[:-5], "bias") if name.endswith(".bias") else (name, "weight")


def _module(family: Family, part: str) -> str:
    return family.names.get(part) or PLAIN[part]


@cache
def _gguf_base(architecture: str, module: str) -> str:
    """What the gguf package calls a module of transformers."""
    from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, get_tensor_name_map  # 0.1 s

    arch = next(arch for arch in MODEL_ARCH if MODEL_ARCH_NAMES.get(arch) == architecture)
    found = get_tensor_name_map(arch, 1).get_name(module)
    if found is None and module == _OUTER["head"]:
        return "output"  # of an architecture that ties it; a file may have it all the same
    assert found is not None, f"{architecture} has no {module}"
    return found


def _offset(name: str, family: Family, *, gguf: bool) -> float:
    return family.norm_offset if "norm" in name and not gguf else 0.0


def _fused(config: ModelConfig, index: int, part: str, family: Family) -> tuple[int, int]:
    """(first row, rows of the tensor) where several of ours lie in one, one after the other."""
    base, suffix = _split_suffix(part)
    module = _module(family, base)
    first = rows = 0
    for other, shape in layer_tensors(config.layer(index), config.hidden_size, config.layer_input):
        other_base, other_suffix = _split_suffix(other)
        if other_suffix == suffix and (other_base in PLAIN or other_base in family.names):
            if other == part:
                first = rows
            if _module(family, other_base) == module:
                rows += shape[0]
    return first, rows


def _of_experts(
    part: str, theirs: str, shape: tuple[int, ...], count: int, family: Family, *, gguf: bool
) -> Place:
    """Of matrices stacked by expert, or of their biases."""
    each = shape[0] // count
    if gguf or (len(shape) == 1 and family.experts != "mixed"):
        return Place((theirs,), (count, each, *shape[1:]))
    if not family.experts:
        return Place(tuple(theirs.replace("{e}", str(e)) for e in range(count)), (each, *shape[1:]))
    base = _split_suffix(part)[0]
    order = None
    wide = each
    if base != "mlp.down":
        wide = 2 * each
        is_up, inside = int(base == "mlp.up"), np.arange(each)
        inside = 2 * inside + is_up if family.experts == "mixed" else inside + is_up * each
        order = (np.arange(count)[:, None] * wide + inside).reshape(-1)
    if len(shape) == 1:
        return Place((theirs,), (count, wide), order=order)
    if family.experts == "joined":
        return Place((theirs,), (count, wide, shape[1]), order=order)
    return Place((theirs,), (count, shape[1], wide), order=order, transposed=True)


def _turned(part: str, mixer: Attention) -> NDArray[np.int64] | None:
    """Our order of the rows of q or k where the file's heads are interleaved."""
    heads = {"attn.q": mixer.num_heads, "attn.k": mixer.num_kv_heads}
    if part not in heads:
        return None
    rotary = None if mixer.rope is None else mixer.rope.rotary_dim
    return half_split_rows(heads[part], mixer.head_dim, rotary)
