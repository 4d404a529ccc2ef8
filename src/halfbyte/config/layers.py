"""A layer as data: a mixer, which looks at other positions, and a feed-forward, which does not.

x += m * mixer(N(x)), then x += m * feed_forward(N(x)); `norms` says where norms stand, m is the
layer's residual multiplier. docs/numerics.md has the formulas, runtime/reference_mixer.py and
runtime/reference_feed_forward.py are them as programs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

from halfbyte.config.fields import (
    CHECK,
    check_flags,
    check_integer,
    check_real,
    check_word,
    known_keys,
    mapping,
)
from halfbyte.config.rope import RopeConfig
from halfbyte.errors import ModelError

MAX_SIZE = (1 << 24) - 1
MAX_EXPERTS = 1 << 12
ACTIVATIONS = ("silu", "gelu-tanh", "clamped-swiglu")
NORM_PLACES = ("before", "after", "both")
QK_NORMS = ("none", "head", "whole")
ROUTINGS = ("softmax", "sigmoid")


@dataclass(frozen=True, slots=True)
class Attention:
    """Softmax attention; R = num_heads / num_kv_heads query heads read one KV head.

    A score is q · k * scale, made cap * tanh(score / cap) where there is a `softcap`. With `sinks`
    each head has one more score, of a position that holds nothing. `qk_norm` is over a head (one
    weight of D for all of them) or over the `whole` projection (a weight of H * D).
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope: RopeConfig | None = field(default_factory=RopeConfig)  # None: no positions
    window: int | None = None  # positions a row sees, its own among them; None: all
    bias: bool = False  # of q, k and v
    out_bias: bool = False
    qk_norm: str = "none"  # none | head | whole
    scale: float | None = None  # None: head_dim ** -0.5
    softcap: float | None = None
    sinks: bool = False
    # b: queries are times 1 + b ln(1 + floor(position / original context))
    position_scale: float = 0.0
    v_norm: bool = False  # v is normalised over a head, without a weight
    tied_v: bool = False  # v is what k's matrix gives, before norm and positions
    kv_layer: int | None = None  # an earlier layer, whose K and V are read; it has none of its own

    def __post_init__(self) -> None:
        for name in ("num_heads", "num_kv_heads", "head_dim"):
            check_integer(name, getattr(self, name), most=MAX_SIZE)
        if self.num_heads % self.num_kv_heads:
            raise ModelError(
                "num_heads",
                got=f"{self.num_heads} heads over {self.num_kv_heads} KV heads",
                expected="a multiple of num_kv_heads",
                fix=CHECK,
            )
        if self.head_dim % 16 or self.head_dim > 512:
            raise ModelError(
                "head_dim",
                got=self.head_dim,
                expected="a multiple of 16, at most 512",
                fix="this head size cannot run",
            )
        if self.window is not None:
            check_integer("window", self.window, most=(1 << 31) - 1)
        check_flags(self, "bias", "out_bias", "sinks", "v_norm", "tied_v")
        if self.kv_layer is not None:
            check_integer("kv_layer", self.kv_layer, least=0, most=MAX_SIZE)
        check_word("qk_norm", self.qk_norm, QK_NORMS)
        for name in ("scale", "softcap"):
            if getattr(self, name) is not None:
                check_real(name, getattr(self, name), least=1e-6, most=1e6)
        check_real("position_scale", self.position_scale, least=0, most=1e3)
        if self.rope is not None:
            self.rope.check_head(self.head_dim)
        elif self.position_scale:
            raise ModelError("position_scale", got="no rope", expected="one", fix=CHECK)

    @property
    def query_width(self) -> int:
        """Rows of q."""
        return self.num_heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Rows of k, and of v."""
        return self.num_kv_heads * self.head_dim

    @property
    def kept_values(self) -> int:
        """Numbers of K and V that are kept of a position."""
        return 2 * self.kv_width if self.kv_layer is None else 0

    @property
    def score_scale(self) -> float:
        """What a query is times."""
        return self.head_dim**-0.5 if self.scale is None else self.scale

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """From JSON."""
        entries = known_keys(cls, mapping(values, "attention"))
        if entries.get("rope") is not None:
            entries["rope"] = RopeConfig.from_dict(entries["rope"])
        return cls(**entries)


@dataclass(frozen=True, slots=True)
class FeedForward:
    """down(act(gate(x)) * up(x)).

    The act of `silu` is g * sigmoid(g), of `gelu-tanh` the usual tanh approximation of GELU;
    `clamped-swiglu` is g * sigmoid(1.702 g) * (u + 1) with g at most `limit` and u within it.
    """

    size: int
    activation: str = "silu"
    bias: bool = False  # of all three
    limit: float = 7.0

    def __post_init__(self) -> None:
        check_integer("feed-forward size", self.size, most=MAX_SIZE)
        check_word("activation", self.activation, ACTIVATIONS)
        check_flags(self, "bias")
        check_real("activation limit", self.limit, least=1e-3, most=1e6)

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """From JSON."""
        return cls(**known_keys(cls, mapping(values, "feed-forward")))


@dataclass(frozen=True, slots=True)
class Experts:
    """A mixture of experts: the weighted sum of `top_k` of `count` feed-forwards.

    A router scores them, score = router · x (+ bias). `softmax`: the best scores are chosen and
    weighted by their softmax, over the chosen where `normalized`, else over all. `sigmoid`: the
    best of sigmoid(score) (+ `choice_bias`) are chosen and weighted by sigmoid(score), divided by
    their sum where `normalized`. Weights are times `scale`; ties go to the lower number.
    `shared` runs for every row, times sigmoid(a gate of its own) with `shared_gate`. Where experts
    are `apart` from it, it alone reads what the layer's norm gives; they read the residual stream
    through a norm of their own, the router through one without a weight, and either sum has a norm
    after it. With `each_scale` an expert's weight is times a number of its own.
    """

    count: int
    top_k: int
    each: FeedForward
    routing: str = "softmax"
    normalized: bool = True
    router_bias: bool = False
    choice_bias: bool = False
    scale: float = 1.0
    shared: FeedForward | None = None
    shared_gate: bool = False
    apart: bool = False
    each_scale: bool = False

    def __post_init__(self) -> None:
        check_integer("expert count", self.count, most=MAX_EXPERTS)
        check_integer("experts a token", self.top_k, most=self.count)
        check_word("routing", self.routing, ROUTINGS)
        check_flags(
            self, "normalized", "router_bias", "choice_bias", "shared_gate", "apart", "each_scale"
        )
        check_real("routing scale", self.scale, least=1e-6, most=1e6)
        if self.choice_bias and self.routing != "sigmoid":
            raise ModelError("choice_bias", got=self.routing, expected="sigmoid", fix=CHECK)
        if self.shared_gate and self.shared is None:
            raise ModelError("shared_gate", got="no shared expert", expected="one", fix=CHECK)
        if self.apart and (self.shared is None or self.shared_gate):
            raise ModelError("apart", got="no shared expert", expected="one, ungated", fix=CHECK)
        if self.count * self.each.size > MAX_SIZE:
            raise ModelError(
                "experts",
                got=f"{self.count} of {self.each.size}",
                expected=f"at most {MAX_SIZE} rows together",
                fix=CHECK,
            )

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """From JSON."""
        entries = known_keys(cls, mapping(values, "experts"))
        entries["each"] = FeedForward.from_dict(entries.get("each"))
        if entries.get("shared") is not None:
            entries["shared"] = FeedForward.from_dict(entries["shared"])
        return cls(**entries)


@dataclass(frozen=True, slots=True)
class LayerConfig:
    """One kind of layer."""

    mixer: Attention
    feed_forward: FeedForward | Experts
    norms: str = "before"  # before | after | both: of the mixer and of the feed-forward alike
    residual_multiplier: float = 1.0
    reads_input: bool = False  # it has an input of its own (`ModelConfig.layer_input`)
    scaled: bool = False  # what leaves it is times a number of its own

    def __post_init__(self) -> None:
        check_word("norms", self.norms, NORM_PLACES)
        check_flags(self, "reads_input", "scaled")
        check_real("residual_multiplier", self.residual_multiplier, least=1e-6, most=1e6)

    @property
    def norm_before(self) -> bool:
        """Whether what enters the mixer and the feed-forward is normalised."""
        return self.norms != "after"

    @property
    def norm_after(self) -> bool:
        """Whether what they give is."""
        return self.norms != "before"

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """From JSON: `mixer` and `feed_forward` name their type in `type`."""
        entries = known_keys(cls, mapping(values, "layer kind"))
        mixer, inner = (mapping(entries.get(k), k) for k in ("mixer", "feed_forward"))
        check_word("mixer type", mixer.pop("type", None), ("attention",))
        kind = inner.pop("type", None)
        check_word("feed_forward type", kind, ("dense", "experts"))
        entries["mixer"] = Attention.from_dict(mixer)
        read = FeedForward.from_dict if kind == "dense" else Experts.from_dict
        entries["feed_forward"] = read(inner)
        return cls(**entries)
