"""How a request's tokens are chosen and when it ends."""

from __future__ import annotations

import difflib
import json
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from halfbyte.errors import ArgumentError
from halfbyte.runtime.protocol import SamplingRow
from halfbyte.sampling.choice import Choice

MAX_STOPS = 64
MAX_STOP_CHARS = 1024
MAX_TOPS = 20
MAX_CHOICES = 128
MAX_BIASES = 1024
MAX_GRAMMAR_CHARS = 65536
MAX_WORDS = 1024


@dataclass(frozen=True, slots=True)
class StructuredOutputs:
    """What the text must be; exactly one is given. Names are vLLM's.

    `json`: a JSON schema, as a string or a dictionary. `grammar`: in Lark's notation.
    """

    json: str | dict[str, Any] | None = None
    regex: str | None = None
    choice: tuple[str, ...] | list[str] | None = None
    grammar: str | None = None
    json_object: bool = False  # any JSON object

    def __post_init__(self) -> None:
        given = [f.name for f in fields(self) if getattr(self, f.name) not in (None, False)]
        if len(given) != 1:
            raise ArgumentError(
                "structured_outputs",
                got=" and ".join(given) or "nothing",
                expected="exactly one of json, regex, choice, grammar, json_object",
                fix="give one",
            )
        # Frozen dataclass: the one place where fields take their canonical form.
        if isinstance(self.json, Mapping):
            object.__setattr__(self, "json", _as_json(self.json))
        if isinstance(self.choice, list):
            object.__setattr__(self, "choice", tuple(self.choice))
        value = getattr(self, self.kind)
        texts = value if self.kind == "choice" else () if self.json_object is True else (value,)
        if (
            not (isinstance(texts, tuple) and all(isinstance(t, str) and t for t in texts))
            or sum(map(len, texts)) > MAX_GRAMMAR_CHARS
            or len(texts) > MAX_WORDS
            or (not texts and self.json_object is not True)
        ):
            raise ArgumentError(
                f"structured_outputs.{self.kind}",
                got=f"{type(value).__name__}",
                expected=f"text of 1 to {MAX_GRAMMAR_CHARS} characters, or up to {MAX_WORDS} words",
                fix="make it smaller",
            )

    @property
    def kind(self) -> str:
        """The field that is given."""
        return next(f.name for f in fields(self) if getattr(self, f.name) not in (None, False))


def _as_json(schema: Mapping[str, Any]) -> str:
    try:
        return json.dumps(schema, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ArgumentError(
            "structured_outputs.json",
            got=str(error)[:100],
            expected="a JSON schema",
            fix="give what json.dumps takes",
        ) from error


@dataclass(frozen=True, slots=True)
class Thinking:
    """How an answer reasons before it says something: between these tags.

    `opened`: the prompt ends inside. `budget`: tokens after which the closing tag is forced.
    """

    open: str
    close: str
    opened: bool = False
    budget: int | None = None

    def __post_init__(self) -> None:
        if not (self.open and self.close):
            raise ArgumentError(
                "thinking", got="no tags", expected="what opens and closes it", fix="give both"
            )
        if self.budget is not None:
            _check_integer("thinking.budget", self.budget, 0, 2**31 - 1, "leave it out for none")


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
    presence_penalty: float = 0.0  # the three as vLLM defines them; see docs/numerics.md
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] | tuple[tuple[int, float], ...] = ()  # token -> what is added
    min_tokens: int = 0  # no end token and no stop token before
    allowed_token_ids: tuple[int, ...] | list[int] | None = None
    logprobs: int | None = None  # most likely tokens reported at each position
    prompt_logprobs: int | None = None  # likewise for the prompt, whose own tokens are scored
    n: int = 1  # answers; answer i draws with seed + i
    best_of: int | None = None  # answers drawn, of which the n most likely are kept
    structured_outputs: StructuredOutputs | None = None
    thinking: Thinking | None = None  # a constraint then begins where the reasoning ends
    shown_token_ids: tuple[int, ...] | list[int] = ()  # control tokens whose names are in the text

    def __post_init__(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else self.stop
        # Frozen dataclass: the one place where fields take their canonical form.
        for name, value in (
            ("stop", stop),
            ("stop_token_ids", self.stop_token_ids),
            ("shown_token_ids", self.shown_token_ids),
        ):
            if not isinstance(value, list | tuple):
                raise ArgumentError(
                    name, got=repr(value), expected="a list", fix="put the value in a list"
                )
            object.__setattr__(self, name, tuple(value))
        self._check_numbers()
        self._check_stops()
        self._check_counts()
        self._check_tokens()

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
        for name in ("stop_token_ids", "shown_token_ids"):
            for token in getattr(self, name):
                _check_integer(name, token, 0, 2**31 - 1, "give token ids")

    def _check_counts(self) -> None:
        for name, low, high in (
            ("presence_penalty", -2.0, 2.0),
            ("frequency_penalty", -2.0, 2.0),
            ("repetition_penalty", 0.01, 100.0),
        ):
            _check(name, getattr(self, name), _is_between, low, high, "leave it out for none")
        _check_integer("min_tokens", self.min_tokens, 0, self.max_tokens, "at most max_tokens")
        _check_integer("n", self.n, 1, MAX_CHOICES, "ask for one answer or a few")
        for name, least, most in (
            ("logprobs", 0, MAX_TOPS),
            ("prompt_logprobs", 0, MAX_TOPS),
            ("best_of", self.n, MAX_CHOICES),
        ):
            if getattr(self, name) is not None:
                _check_integer(name, getattr(self, name), least, most, "leave it out for none")
        wanted = self.structured_outputs
        if wanted is not None and not isinstance(wanted, StructuredOutputs):
            raise ArgumentError(
                "structured_outputs",
                got=type(wanted).__name__,
                expected="a StructuredOutputs",
                fix="make one from halfbyte.sampling.params",
            )

    def _check_tokens(self) -> None:
        pairs = self.logit_bias
        items = pairs.items() if isinstance(pairs, Mapping) else pairs
        bias = {int(t): float(x) for t, x in items} if _are_pairs(items) else None
        if bias is None or len(bias) > MAX_BIASES:
            raise ArgumentError(
                "logit_bias",
                got=repr(pairs)[:80],
                expected=f"at most {MAX_BIASES} token ids, each with a number from -100 to 100",
                fix="give a dictionary",
            )
        object.__setattr__(self, "logit_bias", tuple(sorted(bias.items())))
        if self.allowed_token_ids is None:
            return
        allowed = self.allowed_token_ids
        if not isinstance(allowed, list | tuple) or not allowed:
            raise ArgumentError(
                "allowed_token_ids",
                got=repr(allowed)[:80],
                expected="a list of at least one token id",
                fix="leave it out to allow every token",
            )
        for token in allowed:
            _check_integer("allowed_token_ids", token, 0, 2**31 - 1, "give token ids")
        object.__setattr__(self, "allowed_token_ids", tuple(sorted(set(allowed))))

    @property
    def num_drawn(self) -> int:
        """Answers that are computed."""
        return self.best_of or self.n

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

    def choice(self, index: int = 0) -> Choice:
        """What the runtime needs to draw answer `index`; a missing seed is drawn here."""
        seed = secrets.randbits(64) if self.seed is None and self.temperature > 0 else self.seed
        shared = {name: getattr(self, name) for name in _SHARED}
        shared |= {"top_k": max(0, self.top_k), "seed": ((seed or 0) + index) % 2**64}
        return Choice(
            SamplingRow(**shared),
            tops=max(self.logprobs or 0, self.prompt_logprobs or 0),
            scores_prompt=self.prompt_logprobs is not None,
        )


# What the kernel is told under the same name.
_SHARED = [f.name for f in fields(SamplingParams) if f.name in SamplingRow._fields]


def _are_pairs(items: Any) -> bool:
    """Whether these are (token, number) pairs, numbers from -100 to 100."""
    try:
        return all(
            type(t) is int and 0 <= t < 2**31 and type(x) in (int, float) and -100 <= x <= 100
            for t, x in items
        )
    except (TypeError, ValueError):
        return False


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
