"""Rotary embedding as data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from halfbyte.config.fields import (
    CHECK,
    check_flags,
    check_integer,
    check_real,
    known_keys,
    mapping,
)
from halfbyte.errors import ModelError

F64 = NDArray[np.float64]
KINDS = ("none", "linear", "llama3", "yarn", "proportional")


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary embedding; pairs are (i, i + R/2), the Hugging Face order, of the first R dimensions.

    `kind` is how frequencies are scaled for long texts: `none`, `linear`, `llama3`, `yarn` (arXiv
    2309.00071), or `proportional`: of all D/2 pairs (i, i + D/2) the first R/2 turn, at the speeds
    of a whole head. `frequency_factors` (GGUF `rope_freqs.weight`, LongRoPE; R/2 values) divide
    the frequencies; they come in place of `kind`.
    """

    base: float = 10_000.0
    kind: str = "none"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192
    frequency_factors: tuple[float, ...] = ()
    rotary_dim: int | None = None  # R; None: all of the head
    attention_factor: float = 1.0  # cosines and sines are times this
    beta_fast: float = 32.0  # yarn: turns over the original context, above which nothing changes
    beta_slow: float = 1.0  # ... and below which all is divided by `factor`
    truncate: bool = True  # yarn: the band between them begins and ends at whole pairs

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ModelError(
                "rope scaling",
                got=repr(self.kind)[:80],
                expected=f"{', '.join(KINDS[:-1])} or {KINDS[-1]}",
                fix="this scaling is not supported; use a model without it",
            )
        for name in ("base", "factor", "low_freq_factor", "high_freq_factor"):
            check_real(f"rope.{name}", getattr(self, name), most=1e30)
        if self.kind == "yarn":
            check_real("rope.base", self.base, least=1.001, most=1e30)
        for name in ("attention_factor", "beta_fast", "beta_slow"):
            check_real(f"rope.{name}", getattr(self, name), least=1e-6, most=1e6)
        check_flags(self, "truncate")
        check_integer("rope.original_context", self.original_context, most=(1 << 31) - 1)
        if self.rotary_dim is not None:
            check_integer("rope.rotary_dim", self.rotary_dim, most=1 << 16)
            if self.rotary_dim % 2:
                raise ModelError(
                    "rope.rotary_dim", got=self.rotary_dim, expected="an even number", fix=CHECK
                )
        for low, high, concerned in (
            ("low_freq_factor", "high_freq_factor", "llama3"),
            ("beta_slow", "beta_fast", "yarn"),
        ):
            if self.kind == concerned and getattr(self, low) >= getattr(self, high):
                raise ModelError(
                    f"rope.{low}",
                    got=getattr(self, low),
                    expected=f"less than {high}, {getattr(self, high)}",
                    fix=CHECK,
                )
        if not isinstance(self.frequency_factors, tuple):
            raise ModelError(
                "rope.frequency_factors",
                got=type(self.frequency_factors).__name__,
                expected="a tuple of numbers",
                fix=CHECK,
            )
        for factor in self.frequency_factors:
            check_real("rope.frequency_factors", factor, most=1e30)

    def check_head(self, head_dim: int) -> None:
        """Raise ModelError unless heads of that size can be rotated so."""
        rotated = self.rotary_dim or head_dim
        if rotated > head_dim:
            raise ModelError(
                "rope.rotary_dim", got=rotated, expected=f"at most {head_dim}", fix=CHECK
            )
        given = len(self.frequency_factors)
        if given not in (0, rotated // 2):
            raise ModelError(
                "rope.frequency_factors", got=f"{given} of them", expected=rotated // 2, fix=CHECK
            )
        with np.errstate(all="ignore"):
            fastest = float(self.inverse_frequencies(head_dim).max())
        if not fastest < 1e6:
            raise ModelError(
                "rope frequencies",
                got=f"an angle of {fastest:.3g} a position",
                expected="less than 1e6",
                fix=CHECK,
            )

    def inverse_frequencies(self, head_dim: int) -> NDArray[np.float32]:
        """Angle per position of each pair, float32: [R/2]; [D/2] where it is `proportional`."""
        rotated = self.rotary_dim or head_dim
        size = head_dim if self.kind == "proportional" else rotated
        freq = 1.0 / self.base ** (np.arange(0, rotated, 2, dtype=np.float64) / size)
        if self.frequency_factors:
            freq = freq / np.asarray(self.frequency_factors, dtype=np.float64)
        elif self.kind == "linear":
            freq = freq / self.factor
        elif self.kind == "llama3":
            freq = self._llama3(freq)
        elif self.kind == "yarn":
            freq = self._yarn(freq, rotated)
        elif self.kind == "proportional":
            freq = np.concatenate([freq / self.factor, np.zeros((head_dim - rotated) // 2)])
        return freq.astype(np.float32)

    def _llama3(self, freq: F64) -> F64:
        wavelength = 2 * math.pi / freq
        low = self.original_context / self.low_freq_factor
        high = self.original_context / self.high_freq_factor
        smooth = (self.original_context / wavelength - self.low_freq_factor) / (
            self.high_freq_factor - self.low_freq_factor
        )
        blended = (1 - smooth) * freq / self.factor + smooth * freq
        return np.where(
            wavelength > low, freq / self.factor, np.where(wavelength < high, freq, blended)
        )

    def _yarn(self, freq: F64, rotated: int) -> F64:
        """Fast pairs stay, slow ones are divided, a ramp over pairs lies between."""

        def pair_of(turns: float) -> float:
            wavelength = self.original_context / (turns * 2 * math.pi)
            return rotated * math.log(wavelength) / (2 * math.log(self.base))

        low, high = pair_of(self.beta_fast), pair_of(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, rotated - 1)
        if low == high:
            high += 0.001
        ramp = np.clip((np.arange(rotated // 2) - low) / (high - low), 0, 1)
        mixed: F64 = freq / self.factor * ramp + freq * (1 - ramp)
        return mixed

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """From JSON; an unknown key names the nearest known one."""
        entries = known_keys(cls, mapping(values, "rope"))
        if "frequency_factors" in entries:
            entries["frequency_factors"] = tuple(entries["frequency_factors"])
        return cls(**entries)
