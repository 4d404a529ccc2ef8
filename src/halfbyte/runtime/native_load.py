"""A model's weights, put into the native core."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfbyte import _native
from halfbyte.config import Attention, Experts, FeedForward, LayerConfig
from halfbyte.errors import ModelError
from halfbyte.formats.transforms import Rotation
from halfbyte.formats.weights import Dense, Planes, Weights


def load_model(model: _native.NativeModel, weights: Weights) -> None:
    """Every tensor of a whole model."""
    config = weights.config
    put_matrix(model, "embed", 0, [weights.matrix("embed")])
    if not config.tied_head:
        put_matrix(model, "head", 0, [weights.matrix("head")])
    model.set_vector("final_norm", 0, _f32(weights.vector("norm.final")))
    for i in range(config.num_layers):
        _Layer(model, weights, i).load(config.layer(i))


class _Layer:
    """One layer of the core, filled from the tensors of that layer."""

    def __init__(self, model: _native.NativeModel, weights: Weights, index: int) -> None:
        self._model = model
        self._weights = weights
        self._index = index

    def load(self, kind: LayerConfig) -> None:
        """All its tensors."""
        if kind.norm_before:
            self._put_vector("attn_norm", "norm.attn")
            self._put_vector("mlp_norm", "norm.mlp")
        if kind.norm_after:
            self._put_vector("attn_norm_after", "norm.attn_out")
            self._put_vector("mlp_norm_after", "norm.mlp_out")
        self._load_attention(kind.mixer)
        inner = kind.feed_forward
        if isinstance(inner, FeedForward):
            self._load_feed_forward("", "mlp", inner)
            return
        self._load_feed_forward("", "mlp", inner.each)
        self._load_routing(inner)
        if inner.shared is not None:
            self._load_feed_forward("shared_", "shared", inner.shared)

    def _load_attention(self, mixer: Attention) -> None:
        self._put("qkv", *(f"attn.{x}" for x in "qkv"))
        self._put("o", "attn.o")
        if mixer.bias:
            self._put_vector("qkv_bias", *(f"attn.{x}.bias" for x in "qkv"))
        if mixer.out_bias:
            self._put_vector("o_bias", "attn.o.bias")
        if mixer.qk_norm != "none":
            self._put_vector("q_norm", "attn.q_norm")
            self._put_vector("k_norm", "attn.k_norm")
        if mixer.sinks:
            self._put_vector("sinks", "attn.sinks")

    def _load_feed_forward(self, slot: str, at: str, inner: FeedForward) -> None:
        self._put(f"{slot}gate_up", f"{at}.gate", f"{at}.up")
        self._put(f"{slot}down", f"{at}.down")
        if inner.bias:
            self._put_vector(f"{slot}gate_up_bias", f"{at}.gate.bias", f"{at}.up.bias")
            self._put_vector(f"{slot}down_bias", f"{at}.down.bias")

    def _load_routing(self, experts: Experts) -> None:
        """The router, and as one more row of it the gate of the shared expert."""
        names = ["mlp.router", *(["shared.router"] if experts.shared_gate else [])]
        hidden = self._weights.config.hidden_size
        rows = [self._vector(name).reshape(-1, hidden) for name in names]
        bits = [part.view(np.uint32) for part in rows]
        if any((part & 0xFFFF).any() for part in bits):
            self._model.set_dense("router", self._index, rows, "f32")
        else:  # most were bf16 at their source: the same values in half the bytes
            halves = [(part >> 16).astype(np.uint16) for part in bits]
            self._model.set_dense("router", self._index, halves, "bf16")
        if experts.router_bias:
            self._put_vector("router_bias", "mlp.router.bias")
        if experts.choice_bias:
            self._put_vector("choice_bias", "mlp.choice.bias")

    def _put(self, slot: str, *names: str) -> None:
        parts = [self._weights.matrix(f"layers.{self._index}.{name}") for name in names]
        put_matrix(self._model, slot, self._index, parts)

    def _put_vector(self, slot: str, *names: str) -> None:
        values = np.concatenate([self._vector(name) for name in names])
        self._model.set_vector(slot, self._index, values)

    def _vector(self, name: str) -> NDArray[np.float32]:
        return _f32(self._weights.vector(f"layers.{self._index}.{name}"))


def put_matrix(
    model: _native.NativeModel, slot: str, layer: int, parts: list[Planes | Dense]
) -> None:
    """One matrix of the core from parts stacked by rows."""
    _put_transform(model, slot, layer, parts)
    planes = [p for p in parts if isinstance(p, Planes)]
    if len(planes) == len(parts):
        model.set_planes(
            slot,
            layer,
            [_part(p) for p in planes],
            planes[0].group_size,
            planes[0].wide_groups,
        )
        return
    dense = [p for p in parts if isinstance(p, Dense)]
    dtype = dense[0].dtype
    if any(p.dtype != dtype for p in dense):
        dense, dtype = [Dense(_widen(p), "f32") for p in dense], "f32"
    values = [np.ascontiguousarray(p.values) for p in dense]
    if dtype == "f32":
        model.set_dense(slot, layer, [_f32(v) for v in values], dtype)
    else:
        model.set_dense(slot, layer, [v.view(np.uint16) for v in values], dtype)


def _part(p: Planes) -> _native._Part:
    scale: Any = np.ascontiguousarray(p.scale)
    offset: Any = None if p.offset is None else np.ascontiguousarray(p.offset)
    return (
        np.ascontiguousarray(p.hi),
        None if p.lo is None else np.ascontiguousarray(p.lo),
        scale.view(np.uint16) if scale.dtype == np.float16 else scale,
        offset,
        None if p.unit is None else np.ascontiguousarray(p.unit),
    )


def _put_transform(
    model: _native.NativeModel, slot: str, layer: int, parts: list[Planes | Dense]
) -> None:
    transform = parts[0].transform
    if any(part.transform != transform for part in parts):
        raise ModelError(
            f"input of {slot} in layer {layer}",
            got="matrices that want it transformed in different ways",
            expected="one transform",
            fix="quantize the model again",
        )
    if isinstance(transform, Rotation):
        r = transform
        model.set_rotation(slot, layer, r.matrix, r.block, r.stride, float(r.scale))
    elif transform is not None:
        model.set_gather(slot, layer, np.ascontiguousarray(transform.indices, np.int32))


def _widen(part: Dense) -> NDArray[np.float32]:
    if part.dtype == "bf16":
        return (part.values.astype(np.uint32) << 16).view(np.float32)
    return part.values.astype(np.float32)


def _f32(values: NDArray[Any]) -> NDArray[np.float32]:
    return np.ascontiguousarray(values, dtype=np.float32)
