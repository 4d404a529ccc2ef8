"""Which parts of a model's description the native core runs."""

from __future__ import annotations

from collections.abc import Iterator

from halfbyte.config import Attention, Experts, LayerConfig, ModelConfig
from halfbyte.errors import ModelError

MOST_HEADS_PER_KV_HEAD = 64
LARGEST_HEAD = 256


def check_runnable(config: ModelConfig) -> None:
    """Raise ModelError, naming the first part of the model that the core does not run."""
    part = next(missing_parts(config), None)
    if part is not None:
        raise ModelError(
            f"model {config.family}",
            got=part,
            expected="parts that the native runtime runs",
            fix='use backend="reference" (--backend reference), which runs it slowly',
        )
    inner = config.feed_forward.size
    for name, size in (("hidden_size", config.hidden_size), ("feed-forward size", inner)):
        if size % 16:
            raise ModelError(
                name,
                got=size,
                expected="a multiple of 16",
                fix="the native runtime cannot run this model",
            )
    mixer = config.attention
    if mixer.num_heads // mixer.num_kv_heads > MOST_HEADS_PER_KV_HEAD:
        raise ModelError(
            "num_heads",
            got=f"{mixer.num_heads} over {mixer.num_kv_heads} KV heads",
            expected=f"at most {MOST_HEADS_PER_KV_HEAD} heads per KV head",
            fix="the native runtime cannot run this model",
        )


def missing_parts(config: ModelConfig) -> Iterator[str]:
    """What the core does not run, in words."""
    if len(config.layer_kinds) > 1:
        yield "layers of several kinds"
    for name in ("embedding_multiplier", "logit_multiplier"):
        if getattr(config, name) != 1:
            yield name.replace("_", " ")
    if config.logit_softcap is not None:
        yield "a softcap of logits"
    for kind in config.layer_kinds:
        yield from _of_layer(kind)
        yield from _of_attention(kind.mixer)


def _of_layer(kind: LayerConfig) -> Iterator[str]:
    inner = kind.feed_forward
    if isinstance(inner, Experts):
        yield "experts"
        return
    if inner.activation != "silu":
        yield f"the activation {inner.activation}"
    if inner.bias:
        yield "biases of the feed-forward"
    if kind.norms != "before":
        yield f"norms {kind.norms}" if kind.norms == "after" else "norms before and after"
    if kind.residual_multiplier != 1:
        yield "a residual multiplier"


def _of_attention(mixer: Attention) -> Iterator[str]:
    rope = mixer.rope
    if mixer.head_dim > LARGEST_HEAD:
        yield f"heads of {mixer.head_dim}"
    if rope is None:
        yield "layers without RoPE"
    elif rope.rotary_dim not in (None, mixer.head_dim):
        yield "RoPE of a part of the head"
    elif rope.attention_factor != 1:
        yield "a RoPE attention factor"
    if mixer.qk_norm == "whole":
        yield "a norm over whole q and k"
    for there, words in (
        (mixer.out_bias, "a bias of the output projection"),
        (mixer.sinks, "attention sinks"),
        (mixer.softcap is not None, "a softcap of scores"),
        (mixer.scale is not None, "a scale of scores of its own"),
        (mixer.position_scale != 0, "queries scaled by position"),
    ):
        if there:
            yield words
