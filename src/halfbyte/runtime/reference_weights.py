"""Weights as the numpy twin holds them; a matrix does a linear layer or a row lookup."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from halfbyte.config import Attention, Experts, FeedForward, LayerConfig, Level
from halfbyte.formats.planes import dequantize, join, low_codes, unpack
from halfbyte.formats.transforms import Transform
from halfbyte.formats.weights import OFFSET_STEP, Dense, Planes, Weights
from halfbyte.runtime.reference_ops import (
    F32,
    linear_dense,
    linear_planes,
    quantize_activations,
    transformed,
    widen,
)


@dataclass(frozen=True, slots=True)
class Matrix:
    """One [N, K] matrix. Either `values` or the codes and scales are there."""

    stored: Planes | Dense
    values: F32 | None  # [N, K]
    codes: dict[int, NDArray[np.int16]]  # weight bits 4 and 8 -> [N, K]
    scales: dict[int, F32]  # weight bits 4 and 8 -> [N, K/G]
    offset: F32 | None = None  # [N, K/G], like the scales in units where rows have one

    @property
    def transform(self) -> Transform | None:
        """What is done to an input before the product."""
        return self.stored.transform

    def linear(self, x: F32, weight_bits: int, act_bits: int) -> F32:
        """[M, K] -> [M, N], no bias; x as the layer makes it, before the transform."""
        x = transformed(x, self.stored.transform)
        if self.values is not None:
            return linear_dense(self.values, x)
        p = self.stored
        assert isinstance(p, Planes)
        codes, scale = quantize_activations(x, act_bits, p.group_size, p.wide_groups)
        return linear_planes(
            self.codes[weight_bits], self.scales[weight_bits], self.offset, codes, scale, p.unit
        )

    def rows(self, ids: NDArray[np.int32]) -> F32:
        """Rows [M, K] of the matrix, every stored plane used."""
        if isinstance(self.stored, Planes):
            return dequantize(self.stored.rows(ids), 8)
        assert self.values is not None
        return self.values[ids]

    def part(self, rows: slice) -> Matrix:
        """Some rows, as a matrix."""
        p = self.stored
        return Matrix(
            p.rows(rows) if isinstance(p, Planes) else replace(p, values=p.values[rows]),
            None if self.values is None else self.values[rows],
            {bits: codes[rows] for bits, codes in self.codes.items()},
            {bits: scales[rows] for bits, scales in self.scales.items()},
            None if self.offset is None else self.offset[rows],
        )

    def read_bytes(self, weight_bits: int) -> int:
        """Bytes of the checkpoint's tensors that a product at `weight_bits` reads."""
        p = self.stored
        if isinstance(p, Dense):
            return p.values.nbytes
        wide = p.wide_groups * p.group_size * p.hi.shape[0] // 2
        low = p.lo.nbytes if p.lo is not None and weight_bits == 8 else wide
        return low + sum(array.nbytes for name, array in p.arrays.items() if name != "lo")


def load_matrix(weights: Weights, name: str) -> Matrix:
    """Read one matrix and work out its codes at every weight precision."""
    return hold_matrix(weights.matrix(name))


def hold_matrix(stored: Planes | Dense) -> Matrix:
    """Work out the codes of a matrix at every weight precision."""
    if isinstance(stored, Dense):
        if stored.dtype == "f32":
            values = np.asarray(stored.values, dtype=np.float32)
        else:
            values = widen(np.ascontiguousarray(stored.values).view(np.uint16), stored.dtype)
        return Matrix(stored, values, {}, {})
    hi = unpack(stored.hi)
    low = low_codes(stored)
    codes, scales = {}, {}
    for bits in (4, 8):
        wide = stored.scale.shape[1] if bits == 8 and stored.has_full_lo else stored.wide_groups
        codes[bits] = hi.astype(np.int16)
        scales[bits] = stored.scale.astype(np.float32)
        if wide:  # the last `wide` groups have codes of 8 bits
            assert low is not None
            inputs = wide * stored.group_size
            codes[bits][:, -inputs:] = join(hi[:, -inputs:], low[:, -inputs:])
            scales[bits][:, -wide:] /= np.float32(16)
    offset = None
    if stored.offset is not None:
        offset = stored.offset.astype(np.float32)
        if stored.unit is not None:
            offset *= np.float32(OFFSET_STEP)
    return Matrix(stored, None, codes, scales, offset)


@dataclass(frozen=True, slots=True)
class KvWeights:
    """What makes K and V."""

    k: Matrix
    v: Matrix | None  # None: v is k
    k_bias: F32 | None
    v_bias: F32 | None
    k_norm: F32 | None  # [D], or [Hkv * D]


@dataclass(frozen=True, slots=True)
class AttentionWeights:
    """What `runtime.reference_mixer.attention` reads."""

    q: Matrix
    kv: KvWeights | None  # None: another layer's K and V are read
    o: Matrix
    q_bias: F32 | None
    out_bias: F32 | None  # [hidden]
    q_norm: F32 | None  # [D], or [H * D]
    sinks: F32 | None  # [H]

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        """In the order of a forward."""
        own = () if self.kv is None else (self.kv.k, self.kv.v)
        return (self.q, *(m for m in own if m is not None), self.o)


@dataclass(frozen=True, slots=True)
class InputWeights:
    """How a layer takes in inputs of its own."""

    gate: Matrix
    project: Matrix
    norm: F32  # [hidden]


@dataclass(frozen=True, slots=True)
class DenseWeights:
    """One feed-forward, or several stacked by rows."""

    gate: Matrix
    up: Matrix
    down: Matrix
    biases: tuple[F32, F32, F32] | None  # of gate, up, down

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        """In the order of a forward."""
        return (self.gate, self.up, self.down)

    def part(self, index: int, size: int, hidden: int) -> DenseWeights:
        """One of those stacked."""
        rows = [slice(index * n, (index + 1) * n) for n in (size, size, hidden)]
        gate, up, down = (m.part(r) for m, r in zip(self.matrices, rows, strict=True))
        biases = self.biases
        if biases is not None:
            biases = (biases[0][rows[0]], biases[1][rows[1]], biases[2][rows[2]])
        return DenseWeights(gate, up, down, biases)


@dataclass(frozen=True, slots=True)
class ExpertNorms:
    """Of experts apart from the shared one, [hidden] each."""

    before: F32
    after: F32
    shared_after: F32


@dataclass(frozen=True, slots=True)
class ExpertWeights:
    """What `runtime.reference_feed_forward.experts` reads."""

    router: F32  # [E, hidden]
    router_bias: F32 | None  # [E]
    choice_bias: F32 | None  # [E]
    stacked: DenseWeights
    each: tuple[DenseWeights, ...]
    shared: DenseWeights | None
    shared_router: F32 | None  # [1, hidden]
    each_scale: F32 | None  # [E]
    norms: ExpertNorms | None


@dataclass(frozen=True, slots=True)
class Layer:
    """One transformer layer; a norm [hidden] that its kind has not is None."""

    config: LayerConfig
    attention: AttentionWeights
    feed_forward: DenseWeights | ExpertWeights
    attn_norm: F32 | None
    attn_out_norm: F32 | None
    mlp_norm: F32 | None
    mlp_out_norm: F32 | None
    input: InputWeights | None
    scalar: F32 | None  # [1]

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        """All of them, in the order of a forward."""
        inner, after = self.feed_forward, self.input
        own = self.attention.matrices
        last = () if after is None else (after.gate, after.project)
        if isinstance(inner, DenseWeights):
            return (*own, *inner.matrices, *last)
        shared = inner.shared.matrices if inner.shared else ()
        return (*own, *inner.stacked.matrices, *shared, *last)

    def read_bytes(self, weight_bits: int) -> int:
        """Bytes of matrices that a forward of one row reads: of experts those it chooses."""
        inner = self.feed_forward
        total = sum(m.read_bytes(weight_bits) for m in self.matrices)
        if isinstance(inner, DenseWeights):
            return total
        kind = self.config.feed_forward
        assert isinstance(kind, Experts)
        all_experts = sum(m.read_bytes(weight_bits) for m in inner.stacked.matrices)
        return total - all_experts + all_experts * kind.top_k // kind.count


@dataclass(frozen=True, slots=True)
class LayerInputs:
    """What makes the inputs that layers have of their own."""

    embed: Matrix  # [V, L * P]
    project: Matrix  # [L * P, hidden]
    norm: F32  # [P]


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """The whole model."""

    embed: Matrix
    layers: tuple[Layer, ...]
    final_norm: F32  # [hidden]
    head: Matrix  # the embedding itself when the head is tied
    head_bits: dict[int, int]
    inputs: LayerInputs | None

    @property
    def matrices(self) -> list[Matrix]:
        """Every matrix once."""
        stacked = [m for layer in self.layers for m in layer.matrices]
        inputs = [] if self.inputs is None else [self.inputs.embed, self.inputs.project]
        return [self.embed, *inputs, *stacked, *([] if self.head is self.embed else [self.head])]

    def head_bits_of(self, level: Level) -> int:
        """Planes the head reads at a level."""
        return level.head_bits or self.head_bits.get(level.weight_bits, level.weight_bits)


def load_model(weights: Weights) -> LoadedModel:
    """Read everything a forward needs."""
    config = weights.config
    embed = load_matrix(weights, "embed")
    head = embed if config.tied_head else load_matrix(weights, "head")
    layers = tuple(_load_layer(weights, i) for i in range(config.num_layers))
    inputs = None
    if config.layer_input:
        second, project = (load_matrix(weights, f"inputs.{name}") for name in ("embed", "project"))
        inputs = LayerInputs(second, project, weights.vector("inputs.norm"))
    final = weights.vector("norm.final")
    return LoadedModel(embed, layers, final, head, weights.head_bits, inputs)


def _load_layer(weights: Weights, index: int) -> Layer:
    config = weights.config.layer(index)
    at = f"layers.{index}"
    before, after = config.norm_before, config.norm_after

    def norm(name: str, there: bool) -> F32 | None:
        return weights.vector(f"{at}.norm.{name}") if there else None

    return Layer(
        config=config,
        attention=_load_attention(weights, f"{at}.attn", config.mixer),
        feed_forward=_load_feed_forward(weights, at, config.feed_forward),
        attn_norm=norm("attn", before),
        attn_out_norm=norm("attn_out", after),
        mlp_norm=norm("mlp", before),
        mlp_out_norm=norm("mlp_out", after),
        input=_load_input(weights, at) if config.reads_input else None,
        scalar=weights.vector(f"{at}.scalar") if config.scaled else None,
    )


def _load_attention(weights: Weights, at: str, mixer: Attention) -> AttentionWeights:
    vector, has_norms = weights.vector, mixer.qk_norm != "none"
    kv = None
    if mixer.kv_layer is None:
        kv = KvWeights(
            k=load_matrix(weights, f"{at}.k"),
            v=None if mixer.tied_v else load_matrix(weights, f"{at}.v"),
            k_bias=vector(f"{at}.k.bias") if mixer.bias else None,
            v_bias=vector(f"{at}.v.bias") if mixer.bias and not mixer.tied_v else None,
            k_norm=vector(f"{at}.k_norm") if has_norms else None,
        )
    return AttentionWeights(
        q=load_matrix(weights, f"{at}.q"),
        kv=kv,
        o=load_matrix(weights, f"{at}.o"),
        q_bias=vector(f"{at}.q.bias") if mixer.bias else None,
        out_bias=vector(f"{at}.o.bias") if mixer.out_bias else None,
        q_norm=vector(f"{at}.q_norm") if has_norms else None,
        sinks=vector(f"{at}.sinks") if mixer.sinks else None,
    )


def _load_input(weights: Weights, at: str) -> InputWeights:
    gate, project = (load_matrix(weights, f"{at}.input.{name}") for name in ("gate", "project"))
    return InputWeights(gate, project, weights.vector(f"{at}.norm.input"))


def _load_feed_forward(
    weights: Weights, at: str, config: FeedForward | Experts
) -> DenseWeights | ExpertWeights:
    if isinstance(config, FeedForward):
        return _load_dense(weights, f"{at}.mlp", bias=config.bias)
    hidden, vector = weights.config.hidden_size, weights.vector
    stacked = _load_dense(weights, f"{at}.mlp", bias=config.each.bias)
    shared = config.shared
    return ExpertWeights(
        router=vector(f"{at}.mlp.router").reshape(config.count, hidden),
        router_bias=vector(f"{at}.mlp.router.bias") if config.router_bias else None,
        choice_bias=vector(f"{at}.mlp.choice.bias") if config.choice_bias else None,
        stacked=stacked,
        each=tuple(stacked.part(e, config.each.size, hidden) for e in range(config.count)),
        shared=_load_dense(weights, f"{at}.shared", bias=shared.bias) if shared else None,
        shared_router=vector(f"{at}.shared.router")[None] if config.shared_gate else None,
        each_scale=vector(f"{at}.mlp.each_scale") if config.each_scale else None,
        norms=ExpertNorms(
            before=vector(f"{at}.norm.experts"),
            after=vector(f"{at}.norm.experts_out"),
            shared_after=vector(f"{at}.norm.shared_out"),
        )
        if config.apart
        else None,
    )


def _load_dense(weights: Weights, at: str, *, bias: bool) -> DenseWeights:
    gate, up, down = (load_matrix(weights, f"{at}.{name}") for name in ("gate", "up", "down"))
    biases = None
    if bias:
        read = weights.vector
        biases = (read(f"{at}.gate.bias"), read(f"{at}.up.bias"), read(f"{at}.down.bias"))
    return DenseWeights(gate, up, down, biases)
