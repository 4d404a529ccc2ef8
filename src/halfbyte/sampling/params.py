"""How a request's tokens are drawn and when it ends."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self

from halfbyte.checks import check_int
from halfbyte.errors import ArgumentError
from halfbyte.options import check_options, integer, number, one_of, option, refuse_unknown

if TYPE_CHECKING:
    from halfbyte.sampling.sampler import Sampler

MAX_STOPS = 64
MAX_STOP_CHARS = 1024
MAX_TOPS = 20
MAX_ANSWERS = 128
MAX_BIASES = 1024
MAX_GRAMMAR_CHARS = 65536
MAX_WORDS = 1024


_INT32 = 2**31 - 1
_NONE = "leave it out for none"


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
            check_int("thinking.budget", self.budget, 0, 2**31 - 1, "leave it out for none")


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Names and defaults are vLLM's: temperature 1, 16 tokens. Temperature 0 is greedy.

    `seed` None draws a fresh one per request. `min_p` keeps tokens at least that likely relative
    to the best. `stop` strings are cut from the text; `stop_token_ids` and the model's own
    end tokens (unless `ignore_eos`) stay in `token_ids` and out of the text.
    """

    temperature: float = option(1.0, "0 is greedy.", number(1e-5, 1e4, "0 is greedy", or_zero=True))
    top_k: int = option(
        0, "Keep the k likeliest; 0 or -1: all.", integer(-1, _INT32, "0 turns it off")
    )
    top_p: float = option(
        1.0, "Keep the likeliest up to this mass.", number(0, 1, "1 turns it off", open_low=True)
    )
    min_p: float = option(
        0.0, "Keep those this likely next to the best.", number(0, 1, "0 turns it off")
    )
    seed: int | None = option(
        None,
        "Seed of the noise.",
        integer(0, 2**64 - 1, "leave it out for a fresh one"),
        default_text="a fresh one",
    )
    max_tokens: int = option(
        16,
        "Most new tokens.",
        integer(1, _INT32, "ask for at least one token"),
        "--max-tokens",
        "-n",
    )
    stop: tuple[str, ...] | list[str] | str = option(  # noqa: RUF009
        (), "End at this text; may be given several times."
    )
    stop_token_ids: tuple[int, ...] | list[int] = ()
    ignore_eos: bool = option(
        False, "Go on after the model's end token.", one_of(True, False), "--ignore-eos"
    )
    # The three as vLLM defines them; see docs/numerics.md.
    presence_penalty: float = option(
        0.0, "Taken once from every token of the output.", number(-2, 2, _NONE)
    )
    frequency_penalty: float = option(
        0.0, "Taken from a token for every time it is in the output.", number(-2, 2, _NONE)
    )
    repetition_penalty: float = option(
        1.0, "Divides the logits of the text's own tokens; 1: off.", number(0.01, 100, _NONE)
    )
    logit_bias: Mapping[int, float] | tuple[tuple[int, float], ...] = ()  # token -> what is added
    min_tokens: int = option(0, "No end token before so many tokens.", integer(0, _INT32, _NONE))
    allowed_token_ids: tuple[int, ...] | list[int] | None = None
    # Most likely tokens reported at each position; likewise for the prompt, whose own tokens are
    # scored.
    logprobs: int | None = option(None, None, integer(0, MAX_TOPS, _NONE))
    prompt_logprobs: int | None = option(None, None, integer(0, MAX_TOPS, _NONE))
    # Answers; answer i draws with seed + i. Of `best_of` drawn the n most likely are kept.
    n: int = option(1, None, integer(1, MAX_ANSWERS, "ask for one answer or a few"))
    best_of: int | None = option(None, None, integer(1, MAX_ANSWERS, _NONE))
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
        check_options(self)
        check_int("min_tokens", self.min_tokens, 0, self.max_tokens, "at most max_tokens")
        if self.best_of is not None:
            check_int("best_of", self.best_of, self.n, MAX_ANSWERS, _NONE)
        self._check_stops()
        self._check_constraint()
        self._check_tokens()

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
                check_int(name, token, 0, 2**31 - 1, "give token ids")

    def _check_constraint(self) -> None:
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
            check_int("allowed_token_ids", token, 0, 2**31 - 1, "give token ids")
        object.__setattr__(self, "allowed_token_ids", tuple(sorted(set(allowed))))

    @property
    def num_drawn(self) -> int:
        """Answers that are computed."""
        return self.best_of or self.n

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from named values; an unknown name is an error that names the nearest one."""
        refuse_unknown("sampling parameter", values, cls)
        return cls(**values)

    def sampler(self, index: int = 0) -> Sampler:
        """What the runtime needs to draw answer `index`; a missing seed is drawn here."""
        # Here, so that commands show this class without numpy.
        from halfbyte.runtime.protocol import SamplingRow
        from halfbyte.sampling.sampler import Sampler

        seed = secrets.randbits(64) if self.seed is None and self.temperature > 0 else self.seed
        shared = {
            f.name: getattr(self, f.name) for f in fields(self) if f.name in SamplingRow._fields
        }
        shared |= {"top_k": max(0, self.top_k), "seed": ((seed or 0) + index) % 2**64}
        return Sampler(
            SamplingRow(**shared),
            tops=max(self.logprobs or 0, self.prompt_logprobs or 0),
            scores_prompt=self.prompt_logprobs is not None,
        )


def _are_pairs(items: Any) -> bool:
    """Whether these are (token, number) pairs, numbers from -100 to 100."""
    try:
        return all(
            type(t) is int and 0 <= t < 2**31 and type(x) in (int, float) and -100 <= x <= 100
            for t, x in items
        )
    except (TypeError, ValueError):
        return False
