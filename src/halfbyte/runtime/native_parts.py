"""Which models the native core runs."""

from __future__ import annotations

from collections.abc import Iterator

from halfbyte.config import Attention, Experts, FeedForward, LayerConfig, ModelConfig
from halfbyte.errors import ModelError

MOST_HEADS_PER_KV_HEAD = 64


def check_runnable(config: ModelConfig) -> None:
    """Raise ModelError, naming the first size of the model that the core cannot run."""
    for name, got, expected in _unfit_sizes(config):
        raise ModelError(
            name,
            got=got,
            expected=expected,
            fix='use backend="reference" (--backend reference), which runs it slowly',
        )


def _unfit_sizes(config: ModelConfig) -> Iterator[tuple[str, object, str]]:
    """What the core does not run: name, value, and what it would run."""
    hidden = config.hidden_size
    if hidden % 16:
        yield "hidden_size", hidden, "a multiple of 16"
    for kind in config.layer_kinds:
        for part in _missing_parts(kind):
            yield f"layers of {config.family}", part, "parts that the native runtime runs"
        yield from _of_attention(kind.mixer)
        inner = kind.feed_forward
        if isinstance(inner, Experts):
            if hidden % 32:
                yield "hidden_size", hidden, "a multiple of 32 where there are experts"
            yield from _of_feed_forward(inner.each)
            if inner.shared is not None:
                yield from _of_feed_forward(inner.shared)
        else:
            yield from _of_feed_forward(inner)


def _missing_parts(kind: LayerConfig) -> Iterator[str]:
    mixer, inner = kind.mixer, kind.feed_forward
    for there, words in (
        (mixer.v_norm, "a norm of v"),
        (mixer.tied_v, "K in place of V"),
        (mixer.kv_layer is not None, "K and V of an earlier layer"),
        (kind.reads_input, "inputs of their own"),
        (kind.scaled, "a scale of their own"),
        (isinstance(inner, Experts) and inner.apart, "experts apart from the shared one"),
        (isinstance(inner, Experts) and inner.each_scale, "a scale of each expert"),
    ):
        if there:
            yield words


def _of_attention(mixer: Attention) -> Iterator[tuple[str, object, str]]:
    if mixer.num_heads // mixer.num_kv_heads > MOST_HEADS_PER_KV_HEAD:
        got = f"{mixer.num_heads} over {mixer.num_kv_heads} KV heads"
        yield "num_heads", got, f"at most {MOST_HEADS_PER_KV_HEAD} heads per KV head"


def _of_feed_forward(inner: FeedForward) -> Iterator[tuple[str, object, str]]:
    if inner.size % 16:
        yield "feed-forward size", inner.size, "a multiple of 16"
