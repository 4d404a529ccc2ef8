"""The matrices and vectors of a model: checkpoint names (docs/format.md) and shapes."""

from __future__ import annotations

import math
from collections.abc import Iterator

from halfbyte.config import Attention, Experts, LayerConfig, ModelConfig

# Matrices of a layer by the input they share: what a transform is applied to.
SITES = {
    "attn.qkv": ("attn.q", "attn.k", "attn.v"),
    "attn.o": ("attn.o",),
    "mlp.gate_up": ("mlp.gate", "mlp.up"),
    "mlp.down": ("mlp.down",),
}
_PRODUCTS = (*SITES.values(), ("shared.gate", "shared.up"))  # matrices that are one product

_Shape = tuple[int, ...]

# Generators, not tables: a hostile config may claim millions of layers; the first missing tensor
# ends the walk.


def expected_tensors(config: ModelConfig) -> Iterator[tuple[str, _Shape]]:
    """(name, shape) of every matrix (N, K) and vector (n,), in the order files are written."""
    hidden = config.hidden_size
    yield "embed", (config.vocab_size, hidden)
    if config.layer_input:
        all_inputs = config.num_layers * config.layer_input
        yield "inputs.embed", (config.vocab_size, all_inputs)
        yield "inputs.project", (all_inputs, hidden)
        yield "inputs.norm", (config.layer_input,)
    for i in range(config.num_layers):
        for name, shape in layer_tensors(config.layer(i), hidden, config.layer_input):
            yield f"layers.{i}.{name}", shape
    yield "norm.final", (hidden,)
    if not config.tied_head:
        yield "head", (config.vocab_size, hidden)


def layer_tensors(
    layer: LayerConfig, hidden: int, layer_input: int = 0
) -> Iterator[tuple[str, _Shape]]:
    """(name below `layers.i.`, shape) of a layer's tensors.

    The matrices of experts are stacked, expert after expert: gate and up [E * inner, hidden], down
    [E * hidden, inner]. What routes is a vector, kept in float32: row after row of [E, hidden].
    """
    if layer.norm_before:
        yield "norm.attn", (hidden,)
    yield from _attention_tensors(layer.mixer, hidden)
    if layer.norm_after:
        yield "norm.attn_out", (hidden,)
    if layer.norm_before:
        yield "norm.mlp", (hidden,)
    inner = layer.feed_forward
    if isinstance(inner, Experts):
        yield "mlp.router", (inner.count * hidden,)
        if inner.router_bias:
            yield "mlp.router.bias", (inner.count,)
        if inner.choice_bias:
            yield "mlp.choice.bias", (inner.count,)
        each, shared = inner.each, inner.shared
        yield from _stacked("mlp", inner.count, each.size, hidden, bias=each.bias)
        if shared is not None:
            yield from _stacked("shared", 1, shared.size, hidden, bias=shared.bias)
        if inner.shared_gate:
            yield "shared.router", (hidden,)
        if inner.each_scale:
            yield "mlp.each_scale", (inner.count,)
        for name in ("experts", "experts_out", "shared_out") if inner.apart else ():
            yield f"norm.{name}", (hidden,)
    else:
        yield from _stacked("mlp", 1, inner.size, hidden, bias=inner.bias)
    if layer.norm_after:
        yield "norm.mlp_out", (hidden,)
    if layer.reads_input:
        yield "input.gate", (layer_input, hidden)
        yield "input.project", (hidden, layer_input)
        yield "norm.input", (hidden,)
    if layer.scaled:
        yield "scalar", (1,)


def _attention_tensors(mixer: Attention, hidden: int) -> Iterator[tuple[str, _Shape]]:
    query, key = mixer.query_width, mixer.kv_width
    own = {"q": query} if mixer.kv_layer is not None else {"q": query, "k": key, "v": key}
    if mixer.tied_v:
        own.pop("v", None)
    for name, rows in own.items():
        yield f"attn.{name}", (rows, hidden)
        if mixer.bias:
            yield f"attn.{name}.bias", (rows,)
    if mixer.qk_norm != "none":
        is_whole = mixer.qk_norm == "whole"
        yield "attn.q_norm", (query if is_whole else mixer.head_dim,)
        if mixer.kv_layer is None:
            yield "attn.k_norm", (key if is_whole else mixer.head_dim,)
    if mixer.sinks:
        yield "attn.sinks", (mixer.num_heads,)
    yield "attn.o", (hidden, query)
    if mixer.out_bias:
        yield "attn.o.bias", (hidden,)


def _stacked(
    at: str, count: int, size: int, hidden: int, *, bias: bool
) -> Iterator[tuple[str, _Shape]]:
    for name, rows, inputs in (
        ("gate", size, hidden),
        ("up", size, hidden),
        ("down", hidden, size),
    ):
        yield f"{at}.{name}", (count * rows, inputs)
        if bias:
            yield f"{at}.{name}.bias", (count * rows,)


def expected_matrices(config: ModelConfig) -> Iterator[tuple[str, tuple[int, int]]]:
    """(name, (N, K)) of every matrix, layers in order."""
    for name, shape in expected_tensors(config):
        if len(shape) == 2:
            yield name, (shape[0], shape[1])


def site_of(name: str) -> tuple[str, str] | None:
    """(`layers.i`, site) of a layer's matrix; None for others."""
    prefix, short = _split(name)
    sites = [site for site, matrices in SITES.items() if short in matrices]
    return (prefix, sites[0]) if sites else None


def product_of(name: str) -> tuple[str, ...]:
    """The matrices that are one product with this one, itself among them, in their order."""
    prefix, short = _split(name)
    together = next((names for names in _PRODUCTS if short in names), (short,))
    return tuple(f"{prefix}.{part}" if prefix else part for part in together)


def first_of_product(name: str) -> str:
    """The matrix whose kind of scales those of its product share."""
    return product_of(name)[0]


def _split(name: str) -> tuple[str, str]:
    """`layers.3.attn.q` -> (`layers.3`, `attn.q`); a name outside layers has no prefix."""
    parts = name.split(".", 2)
    if len(parts) == 3 and parts[0] == "layers":
        return f"layers.{parts[1]}", parts[2]
    return "", name


def layer_inputs(layer: LayerConfig, hidden: int) -> dict[str, int]:
    """Site -> the inputs of a layer's matrices; of one expert's where there are several."""
    inner = layer.feed_forward
    each = inner.each if isinstance(inner, Experts) else inner
    return {
        "attn.qkv": hidden,
        "attn.o": layer.mixer.query_width,
        "mlp.gate_up": hidden,
        "mlp.down": each.size,
    }


def site_inputs(config: ModelConfig) -> dict[str, int]:
    """Site -> the inputs of its matrices; where layers differ, the greatest divisor of all."""
    kinds = [layer_inputs(layer, config.hidden_size) for layer in config.layer_kinds]
    return {site: math.gcd(*(inputs[site] for inputs in kinds)) for site in SITES}


def file_of(name: str) -> str:
    """The safetensors file a tensor is written to: one per layer, all a writer has to hold."""
    parts = name.split(".")
    if parts[0] == "layers":
        return f"layer-{int(parts[1]):03d}.safetensors"
    return f"{parts[0]}.safetensors"
