"""What a model is (`ModelConfig`) and in which precision a forward runs (`Level`)."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, field, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from halfbyte.errors import ArgumentError, ModelError

_CHECK = "check the model's config"
_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_layers",
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "max_context",
)
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
GROUP_SIZES = (32, 64, 128)


def check_integer(name: str, value: object, *, least: int = 1, most: int) -> None:
    """Raise ModelError unless a field of a model is an integer of that range."""
    if type(value) is not int or not least <= value <= most:
        raise ModelError(
            name, got=repr(value)[:80], expected=f"an integer, {least} to {most}", fix=_CHECK
        )


def check_real(name: str, value: object, *, least: float = 1e-30, most: float) -> None:
    """Raise ModelError unless a field of a model is a number of that range."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and least <= value <= most):  # type: ignore[operator]
        raise ModelError(
            name, got=repr(value)[:80], expected=f"a number, {least} to {most}", fix=_CHECK
        )


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary embedding; pairs are (i, i + D/2), the Hugging Face order.

    `frequency_factors` (GGUF `rope_freqs.weight`, D/2 values) divide the frequencies; they come
    in place of `kind`.
    """

    base: float = 10_000.0
    kind: str = "none"  # none | linear | llama3
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192
    frequency_factors: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in ("none", "linear", "llama3"):
            raise ModelError(
                "rope scaling",
                got=repr(self.kind)[:80],
                expected="none, linear or llama3",
                fix="this scaling is not supported; use a model without it",
            )
        for name in ("base", "factor", "low_freq_factor", "high_freq_factor"):
            check_real(f"rope.{name}", getattr(self, name), most=1e30)
        check_integer("rope.original_context", self.original_context, most=(1 << 31) - 1)
        if self.kind == "llama3" and self.low_freq_factor >= self.high_freq_factor:
            raise ModelError(
                "rope.low_freq_factor",
                got=self.low_freq_factor,
                expected=f"less than the high one, {self.high_freq_factor}",
                fix=_CHECK,
            )
        if not isinstance(self.frequency_factors, tuple):
            raise ModelError(
                "rope.frequency_factors",
                got=type(self.frequency_factors).__name__,
                expected="a tuple of numbers",
                fix=_CHECK,
            )
        for factor in self.frequency_factors:
            check_real("rope.frequency_factors", factor, most=1e30)

    def inverse_frequencies(self, head_dim: int) -> NDArray[np.float32]:
        """Angle per position of each pair: [D/2], float32."""
        freq = 1.0 / self.base ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
        if self.frequency_factors:
            freq = freq / np.asarray(self.frequency_factors, dtype=np.float64)
        elif self.kind == "linear":
            freq = freq / self.factor
        elif self.kind == "llama3":
            wavelength = 2 * math.pi / freq
            low = self.original_context / self.low_freq_factor
            high = self.original_context / self.high_freq_factor
            smooth = (self.original_context / wavelength - self.low_freq_factor) / (
                self.high_freq_factor - self.low_freq_factor
            )
            blended = (1 - smooth) * freq / self.factor + smooth * freq
            freq = np.where(
                wavelength > low, freq / self.factor, np.where(wavelength < high, freq, blended)
            )
        return freq.astype(np.float32)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Shape of a dense decoder-only transformer (Llama, Mistral, Qwen2, Qwen3)."""

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_context: int
    norm_eps: float
    rope: RopeConfig = field(default_factory=RopeConfig)
    tied_head: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    sliding_window: int | None = None
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ModelError(
                "architecture",
                got=repr(self.family),
                expected=f"one of {', '.join(FAMILIES)}",
                fix="use one of those",
            )
        for name in _SIZES:
            check_integer(name, getattr(self, name), most=(1 << 24) - 1)
        if self.num_heads % self.num_kv_heads:
            raise ModelError(
                "num_heads",
                got=f"{self.num_heads} heads over {self.num_kv_heads} KV heads",
                expected="a multiple of num_kv_heads",
                fix="check the model's config",
            )
        if self.head_dim % 16 or self.head_dim > 256:
            raise ModelError(
                "head_dim",
                got=self.head_dim,
                expected="a multiple of 16, at most 256",
                fix="this head size cannot run",
            )
        check_real("norm_eps", self.norm_eps, least=1e-30, most=1.0)
        if self.sliding_window is not None:
            check_integer("sliding_window", self.sliding_window, most=(1 << 31) - 1)
        for name in ("tied_head", "qkv_bias", "qk_norm"):
            if not isinstance(getattr(self, name), bool):
                got = repr(getattr(self, name))[:80]
                raise ModelError(name, got=got, expected="true or false", fix=_CHECK)
        for token in (*self.eos_ids, *(() if self.bos_id is None else (self.bos_id,))):
            check_integer("bos_id or eos_ids", token, least=0, most=self.vocab_size - 1)
        self._check_rope()

    def _check_rope(self) -> None:
        pairs, given = self.head_dim // 2, len(self.rope.frequency_factors)
        if given not in (0, pairs):
            raise ModelError(
                "rope.frequency_factors", got=f"{given} of them", expected=pairs, fix=_CHECK
            )
        with np.errstate(all="ignore"):
            fastest = float(self.rope.inverse_frequencies(self.head_dim).max())
        if not fastest < 1e6:
            raise ModelError(
                "rope frequencies",
                got=f"an angle of {fastest:.3g} a position",
                expected="less than 1e6",
                fix=_CHECK,
            )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Read what `dataclasses.asdict` wrote; an unknown key names the nearest known one."""
        values = dict(values)
        values["rope"] = RopeConfig(
            **_checked(RopeConfig, _mapping(values.get("rope", {}), "rope"))
        )
        for key in ("eos_ids",):
            values[key] = tuple(values.get(key, ()))
        return cls(**_checked(cls, values))


def _mapping(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ModelError(
            name, got=type(value).__name__, expected="a JSON object", fix="check the config"
        )
    entries: dict[str, Any] = dict(value)
    if "frequency_factors" in entries:
        entries["frequency_factors"] = tuple(entries["frequency_factors"])
    return entries


def _checked(cls: type, values: dict[str, Any]) -> dict[str, Any]:
    known = [f.name for f in fields(cls)]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
            raise ModelError(f"{cls.__name__} key", got=repr(key), expected="a known key", fix=hint)
    return values


@dataclass(frozen=True, slots=True)
class Level:
    """Planes and activation precision of one forward.

    `weight_bits` 4 reads the `hi` plane, 8 reads `hi` and `lo`, 32 the dense source weights.
    `act_bits` 4, 8, 16: dynamic symmetric integers per group of inputs; 32: float32.
    `head_bits` is the same choice for the output head; None: what the checkpoint says for
    `weight_bits`.
    """

    weight_bits: int
    act_bits: int
    head_bits: int | None = None

    def __str__(self) -> str:
        if self.weight_bits == 32:
            return "f32"
        return f"w{self.weight_bits}a{self.act_bits}" + (
            f"+h{self.head_bits}" if self.head_bits else ""
        )

    @classmethod
    def parse(cls, text: str) -> Self:
        """`w4a8`, `w8a16`, `f32` …; `w4a8+h8` picks the head's planes."""
        base, _, head = text.strip().partition("+")
        if base in LEVEL_NAMES and head in ("", "h4", "h8") and not (base == "f32" and head):
            if base == "f32":
                return cls(32, 32)
            return cls(int(base[1]), int(base[3:]), int(head[1]) if head else None)
        near = difflib.get_close_matches(text, LEVEL_NAMES, n=1)
        raise ArgumentError(
            "level",
            got=repr(text),
            expected=", ".join(LEVEL_NAMES) + " (+h4 or +h8 picks the head's planes)",
            fix=f"did you mean {near[0]!r}?" if near else "use one of those",
        )


LEVEL_NAMES = ("w4a4", "w4a8", "w4a16", "w8a8", "w8a16", "f32")
