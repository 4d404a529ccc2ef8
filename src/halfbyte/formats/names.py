"""The matrices and vectors of a model: checkpoint names (docs/format.md) and shapes."""

from __future__ import annotations

from collections.abc import Iterator

from halfbyte.config import ModelConfig

# Matrices of a layer by the input they share: what a transform is applied to.
SITES = {
    "attn.qkv": ("attn.q", "attn.k", "attn.v"),
    "attn.o": ("attn.o",),
    "mlp.gate_up": ("mlp.gate", "mlp.up"),
    "mlp.down": ("mlp.down",),
}

# Generators, not tables: a hostile config may claim millions of layers; the first missing tensor
# ends the walk.


def expected_tensors(config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(name, shape) of every matrix (N, K) and vector (n,), in the order files are written."""
    query = config.num_heads * config.head_dim
    key = config.num_kv_heads * config.head_dim
    hidden, inner = config.hidden_size, config.intermediate_size
    yield "embed", (config.vocab_size, hidden)
    for i in range(config.num_layers):
        yield f"layers.{i}.norm.attn", (hidden,)
        for name, rows in (("q", query), ("k", key), ("v", key)):
            yield f"layers.{i}.attn.{name}", (rows, hidden)
            if config.qkv_bias:
                yield f"layers.{i}.attn.{name}.bias", (rows,)
        if config.qk_norm:
            yield f"layers.{i}.attn.q_norm", (config.head_dim,)
            yield f"layers.{i}.attn.k_norm", (config.head_dim,)
        yield f"layers.{i}.attn.o", (hidden, query)
        yield f"layers.{i}.norm.mlp", (hidden,)
        yield f"layers.{i}.mlp.gate", (inner, hidden)
        yield f"layers.{i}.mlp.up", (inner, hidden)
        yield f"layers.{i}.mlp.down", (hidden, inner)
    yield "norm.final", (hidden,)
    if not config.tied_head:
        yield "head", (config.vocab_size, hidden)


def expected_matrices(config: ModelConfig) -> Iterator[tuple[str, tuple[int, int]]]:
    """(name, (N, K)) of every matrix, layers in order."""
    for name, shape in expected_tensors(config):
        if len(shape) == 2:
            yield name, (shape[0], shape[1])


def site_of(name: str) -> tuple[str, str] | None:
    """(`layers.i`, site) of a layer's matrix; None for the embedding and the head."""
    prefix, _, matrix = name.partition(".attn.")
    short = f"attn.{matrix}"
    if not matrix:
        prefix, _, matrix = name.partition(".mlp.")
        short = f"mlp.{matrix}"
    sites = [site for site, matrices in SITES.items() if short in matrices]
    return (prefix, sites[0]) if sites else None


def product_of(name: str) -> tuple[str, ...]:
    """The matrices that are one product with this one, itself among them, in their order."""
    place = site_of(name)
    return (name,) if place is None else tuple(f"{place[0]}.{part}" for part in SITES[place[1]])


def first_of_product(name: str) -> str:
    """The matrix whose kind of scales those of its product share."""
    return product_of(name)[0]


def site_inputs(config: ModelConfig) -> dict[str, int]:
    """Site -> the inputs of its matrices."""
    return {
        "attn.qkv": config.hidden_size,
        "attn.o": config.num_heads * config.head_dim,
        "mlp.gate_up": config.hidden_size,
        "mlp.down": config.intermediate_size,
    }


def file_of(name: str) -> str:
    """The safetensors file a tensor is written to: one per layer, all a writer has to hold."""
    parts = name.split(".")
    if parts[0] == "layers":
        return f"layer-{int(parts[1]):03d}.safetensors"
    return f"{parts[0]}.safetensors"
