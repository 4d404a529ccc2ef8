"""How a request's tokens are chosen and when it ends."""

from __future__ import annotations

import difflib
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from halfbyte.cascade.decoding import Choice
from halfbyte.errors import ArgumentError

MAX_STOPS = 64
MAX_STOP_CHARS = 1024


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Names and defaults are vLLM's: temperature 1, 16 tokens. Temperature 0 is greedy.

    `seed` None draws a fresh one per request. `min_p` keeps tokens at least that likely relative
    to the best. `stop` strings are cut from the text; `stop_token_ids` and the model's own
    end tokens (unless `ignore_eos`) stay in `token_ids` and out of the text.
    """

    temperature: float = 1.0
    top_k: int = 0  # 0 or -1: off
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None
    max_tokens: int = 16
    stop: tuple[str, ...] | list[str] | str = ()
    stop_token_ids: tuple[int, ...] | list[int] = ()
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else self.stop
        # Frozen dataclass: the one place where fields take their canonical form.
        for name, value in (("stop", stop), ("stop_token_ids", self.stop_token_ids)):
            if not isinstance(value, list | tuple):
                raise ArgumentError(
                    name, got=repr(value), expected="a list", fix="put the value in a list"
                )
            object.__setattr__(self, name, tuple(value))
        self._check_numbers()
        self._check_stops()

    def _check_numbers(self) -> None:
        _check("temperature", self.temperature, _is_zero_or, 1e-5, 1e4, "0 is greedy")
        _check("top_p", self.top_p, _is_positive_up_to, 0.0, 1.0, "1 turns it off")
        _check("min_p", self.min_p, _is_between, 0.0, 1.0, "0 turns it off")
        _check_integer("top_k", self.top_k, -1, 2**31 - 1, "0 turns it off")
        _check_integer("max_tokens", self.max_tokens, 1, 2**31 - 1, "ask for at least one token")
        if self.seed is not None:
            _check_integer("seed", self.seed, 0, 2**64 - 1, "leave it out for a fresh one")
        if not isinstance(self.ignore_eos, bool):
            raise ArgumentError(
                "ignore_eos", got=repr(self.ignore_eos), expected="True or False", fix="use one"
            )

    def _check_stops(self) -> None:
        if len(self.stop) > MAX_STOPS or not all(
            isinstance(s, str) and 0 < len(s) <= MAX_STOP_CHARS for s in self.stop
        ):
            raise ArgumentError(
                "stop",
                got=f"{len(self.stop)} values",
                expected=f"at most {MAX_STOPS} non-empty strings of at most {MAX_STOP_CHARS}",
                fix="drop empty or very long strings",
            )
        for token in self.stop_token_ids:
            _check_integer("stop_token_ids", token, 0, 2**31 - 1, "give token ids")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from named values; an unknown name is an error that names the nearest one."""
        known = [f.name for f in fields(cls)]
        for key in values:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1)
                raise ArgumentError(
                    "sampling parameter",
                    got=repr(key),
                    expected=f"one of {', '.join(known)}",
                    fix=f"did you mean {near[0]!r}?" if near else "leave it out",
                )
        return cls(**values)

    def choice(self) -> Choice:
        """What the runtime needs to draw tokens; a missing seed is drawn here."""
        seed = secrets.randbits(64) if self.seed is None and self.temperature > 0 else self.seed
        return Choice(
            temperature=float(self.temperature),
            top_k=max(0, self.top_k),
            top_p=float(self.top_p),
            min_p=float(self.min_p),
            seed=seed or 0,
        )


def _is_zero_or(value: float, least: float, most: float) -> bool:
    return value == 0 or least <= value <= most


def _is_positive_up_to(value: float, least: float, most: float) -> bool:
    return least < value <= most


def _is_between(value: float, least: float, most: float) -> bool:
    return least <= value <= most


_RANGES = {
    _is_zero_or: "0, or {} to {}",
    _is_positive_up_to: "above {} and at most {}",
    _is_between: "{} to {}",
}


def _check(name: str, value: object, test: Any, least: float, most: float, fix: str) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and math.isfinite(value) and test(value, least, most)):  # type: ignore[arg-type]
        expected = f"a number, {_RANGES[test].format(f'{least:g}', f'{most:g}')}"
        raise ArgumentError(name, got=repr(value), expected=expected, fix=fix)


def _check_integer(name: str, value: object, least: int, most: int, fix: str) -> None:
    if not (isinstance(value, int) and not isinstance(value, bool) and least <= value <= most):
        raise ArgumentError(
            name, got=repr(value), expected=f"an integer, {least} to {most}", fix=fix
        )
