"""What a model is: its sizes and the kinds of its layers."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Self

from halfbyte.config.fields import CHECK, check_flags, check_integer, check_real
from halfbyte.config.layers import MAX_SIZE, Attention, Experts, FeedForward, LayerConfig
from halfbyte.errors import ModelError

GROUP_SIZES = (32, 64, 128)
MAX_KINDS = 64
MAX_ORDER = 1 << 12
_FAMILY = re.compile(r"[a-z0-9][a-z0-9_.-]{0,39}")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A decoder-only transformer as a list of layers.

    Layer i is `kinds[order[i % len(order)]]`. A token's row of the embedding is times
    `embedding_multiplier`; logits are times `logit_multiplier`, then made cap * tanh(logit / cap)
    where there is a `logit_softcap`. `family` is a name for people.

    With a `layer_input` P every layer that reads it has P inputs of its own of each token: a row of
    a second embedding, times sqrt(P), and a normed projection of the first, times hidden ** -0.5,
    both added and times sqrt(1/2). After its feed-forward such a layer adds
    N(project(gelu(gate(x)) * inputs)).
    """

    family: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    max_context: int
    norm_eps: float
    kinds: tuple[LayerConfig, ...]
    order: tuple[int, ...] = (0,)
    tied_head: bool = False
    embedding_multiplier: float = 1.0
    logit_multiplier: float = 1.0
    logit_softcap: float | None = None
    layer_input: int = 0
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.family, str) or not _FAMILY.fullmatch(self.family):
            raise ModelError(
                "family",
                got=repr(self.family)[:80],
                expected="a word in lower case",
                fix=CHECK,
            )
        for name in ("vocab_size", "hidden_size", "num_layers", "max_context"):
            check_integer(name, getattr(self, name), most=MAX_SIZE)
        check_real("norm_eps", self.norm_eps, least=1e-30, most=1.0)
        check_flags(self, "tied_head")
        for name in ("embedding_multiplier", "logit_multiplier", "logit_softcap"):
            if getattr(self, name) is not None:
                check_real(name, getattr(self, name), least=1e-6, most=1e6)
        for token in (*self.eos_ids, *(() if self.bos_id is None else (self.bos_id,))):
            check_integer("bos_id or eos_ids", token, least=0, most=self.vocab_size - 1)
        if not 0 < len(self.kinds) <= MAX_KINDS or not 0 < len(self.order) <= MAX_ORDER:
            raise ModelError(
                "layer kinds",
                got=f"{len(self.kinds)} kinds in an order of {len(self.order)}",
                expected=f"1 to {MAX_KINDS} in an order of 1 to {MAX_ORDER}",
                fix=CHECK,
            )
        for kind in self.order:
            check_integer("order of layer kinds", kind, least=0, most=len(self.kinds) - 1)
        check_integer("layer_input", self.layer_input, least=0, most=1 << 16)
        if any(kind.reads_input for kind in self.kinds) and not self.layer_input:
            raise ModelError("layer_input", got=0, expected="a size: a layer reads it", fix=CHECK)
        if any(kind.mixer.kv_layer is not None for kind in self.kinds):
            self._check_shared_kv()

    def _check_shared_kv(self) -> None:
        check_integer("num_layers", self.num_layers, most=MAX_ORDER)
        for i in range(self.num_layers):
            mixer = self.layer(i).mixer
            if mixer.kv_layer is None:
                continue
            there = self.layer(mixer.kv_layer).mixer if mixer.kv_layer < i else None
            shape = (mixer.num_kv_heads, mixer.head_dim, None)
            if there is None or (there.num_kv_heads, there.head_dim, there.kv_layer) != shape:
                raise ModelError(
                    f"kv_layer of layer {i}",
                    got=mixer.kv_layer,
                    expected="an earlier layer with K and V of its shape",
                    fix=CHECK,
                )

    def layer(self, index: int) -> LayerConfig:
        """What layer `index` is."""
        return self.kinds[self.order[index % len(self.order)]]

    def only(self, index: int) -> Self:
        """The model with that layer alone."""
        return replace(self, num_layers=1, kinds=(self.layer(index),), order=(0,))

    @property
    def layer_counts(self) -> dict[int, int]:
        """Kind -> how many layers are of it; kinds without a layer are left out."""
        rounds, rest = divmod(self.num_layers, len(self.order))
        counts: dict[int, int] = {}
        for place, kind in enumerate(self.order):
            counts[kind] = counts.get(kind, 0) + rounds + (place < rest)
        return {kind: count for kind, count in counts.items() if count}

    @property
    def layer_kinds(self) -> list[LayerConfig]:
        """The kinds that layers are of."""
        return [self.kinds[kind] for kind in self.layer_counts]

    @property
    def kv_values(self) -> int:
        """Numbers of K and V that all layers keep of a position."""
        return sum(
            self.kinds[kind].mixer.kept_values * count for kind, count in self.layer_counts.items()
        )

    @property
    def attention(self) -> Attention:
        """The mixer of every layer. Raises ModelError where layers differ."""
        found: Attention = self._one({kind.mixer: None for kind in self.layer_kinds}, "attention")
        return found

    @property
    def feed_forward(self) -> FeedForward:
        """The dense feed-forward of every layer. Raises ModelError where layers differ."""
        kinds = {kind.feed_forward: None for kind in self.layer_kinds}
        found: FeedForward = self._one(kinds, "a dense feed-forward")
        return found

    def _one(self, found: dict[Any, None], what: str) -> Any:
        if len(found) == 1 and not isinstance(next(iter(found)), Experts):
            return next(iter(found))
        got = f"{len(found)} kinds" if len(found) > 1 else "experts"
        raise ModelError(
            f"layers of {self.family}",
            got=got,
            expected=f"{what} that all layers have",
            fix="this cannot be done with this model",
        )

    def with_attention(self, **changes: Any) -> Self:
        """The model with those fields of attention changed in all layers."""
        kinds = (replace(k, mixer=replace(k.mixer, **changes)) for k in self.kinds)
        return replace(self, kinds=tuple(kinds))

    def with_feed_forward(self, **changes: Any) -> Self:
        """The model with those fields of the dense feed-forward changed in all layers."""
        inner = replace(self.feed_forward, **changes)
        return replace(self, kinds=tuple(replace(k, feed_forward=inner) for k in self.kinds))
