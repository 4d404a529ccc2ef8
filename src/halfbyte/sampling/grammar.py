"""Structured output: JSON schemas, regular expressions, choices and grammars, through llguidance.

A `GrammarCompiler` holds what a tokenizer needs, made once per model; a `TokenGrammar` follows one
text. A request's grammar is hostile input: its size, depth and the work of a step are bounded.

A constraint forbids, it does not choose: where only one text can follow, any tokens that spell it
may. (The library would force the one spelling its tokenizer gives, added tokens and all.)
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, cast

import numpy as np

from halfbyte.errors import ArgumentError
from halfbyte.helper_process import HelperProcess
from halfbyte.sampling.constraint_text import library_form
from halfbyte.sampling.params import StructuredOutputs
from halfbyte.sampling.remarks import remark
from halfbyte.sampling.shaper import Words, words_of

if TYPE_CHECKING:
    from llguidance import LLMatcher

MAX_COMPILED = 64  # grammars kept ready
# Parser work; about 20 ms to compile and a few ms per mask at most on one core.
MAX_GRAMMAR_SIZE = 50_000
INITIAL_FUEL = 1_000_000
STEP_FUEL = 200_000
STEP_ITEMS = 50_000
MAX_LEXER_STATES = 50_000
LIMITS: dict[str, Any] = {
    "max_grammar_size": MAX_GRAMMAR_SIZE,
    "initial_lexer_fuel": INITIAL_FUEL,
    "step_lexer_fuel": STEP_FUEL,
    "step_max_items": STEP_ITEMS,
    "max_lexer_states": MAX_LEXER_STATES,
    "precompute_large_lexemes": False,
    "verbose_errors": False,
}
# What the library does not limit, a process tries first (grammar_worker).
COMPILE_SECONDS = 3  # of a processor; what clients send takes milliseconds
_PATIENCE_SECONDS = 60.0  # by the clock, on a busy machine
_WORKER = Path(__file__).with_name("grammar_worker.py")
_TRUSTED = ("choice", "json_object")  # words and a schema of ours

_COUNT = re.compile(r" \(\d+ times\)$")


class Vocabulary(Protocol):
    """What the tokens of a model spell. `halfbyte/text/codec.py` is one."""

    def token_bytes(self, token: int) -> bytes:
        """What a token adds to a text; none for an id that is no token."""

    def is_control(self, token: int) -> bool:
        """Whether a token is none of the text, whatever its name."""


class TokenGrammar:
    """One text under a grammar. See `sampling.shaper.Grammar`.

    Its limits are of a step and of all steps so far: a matcher that has looked at other texts as
    well may reach them elsewhere. So each text has one of its own, a copy of few microseconds.
    """

    def __init__(self, matcher: LLMatcher, control: Words) -> None:
        """`control`: bits of tokens that are none of a text."""
        self._matcher = matcher
        self._control = control

    @property
    def is_complete(self) -> bool:
        """Whether nothing can follow: the text is whole, or an end token was taken."""
        return bool(self._matcher.is_stopped() and not self._matcher.is_error())

    def mask(self) -> Words | None:
        """Tokens that may come next; a text that could end here may take an end token."""
        if self._matcher.is_error():
            return None
        words: Words = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint32)
        if self._matcher.is_error():
            return None
        words = words[: len(self._control)]
        named = words & self._control
        return self._without_unfit(words, named) if named.any() else words

    def push(self, token: int) -> bool:
        """Take a token if it is allowed and can be taken within the limits."""
        return bool(self._matcher.try_consume_tokens([token]) == 1)

    def fork(self) -> TokenGrammar:
        """Another text that begins as this one."""
        return TokenGrammar(self._matcher.deep_copy(), self._control)

    def _without_unfit(self, words: Words, named: Words) -> Words:
        """Less the control tokens that only look as if their bytes were text to the grammar."""
        bits = np.unpackbits(named.view(np.uint8), bitorder="little")
        unfit = [t for t in np.flatnonzero(bits).tolist() if not self._matcher.validate_tokens([t])]
        return words & ~words_of(unfit, 32 * len(words)) if unfit else words


class GrammarCompiler:
    """Makes grammars over one tokenizer; what was compiled last is kept. For any thread."""

    def __init__(self, vocabulary: Vocabulary, vocab_size: int, end_ids: Iterable[int]) -> None:
        try:
            import llguidance
        except ImportError as error:
            raise ArgumentError(
                "structured_outputs",
                got="no llguidance",
                expected="the extra halfbyte[structured]",
                fix="pip install 'halfbyte[structured]'",
            ) from error
        ends = sorted(end_ids)
        if not ends:
            raise ArgumentError(
                "structured_outputs",
                got="a model without an end token",
                expected="one that can end a text",
                fix="use another model",
            )
        self._library = llguidance
        control = [t for t in range(vocab_size) if vocabulary.is_control(t) and t not in ends]
        self._control = words_of(control, vocab_size)
        tokens = _Tokens(vocabulary, vocab_size, control, ends)
        self._tokenizer = llguidance.LLTokenizer(cast(Any, tokens), eos_token=ends)
        self._limits = llguidance.LLParserLimits(**LIMITS)
        self._trial = HelperProcess(_WORKER, "grammars", {})
        self._ready: OrderedDict[StructuredOutputs, LLMatcher] = OrderedDict()
        self._lock = threading.Lock()  # of `_ready`, never held while compiling

    def compile(self, wanted: StructuredOutputs) -> TokenGrammar:
        """A grammar at its beginning. Raises `ArgumentError` for one that cannot be used."""
        with self._lock:
            matcher = self._ready.get(wanted)
        if matcher is None:
            matcher = self._compiled(wanted)
        with self._lock:
            self._ready[wanted] = matcher
            self._ready.move_to_end(wanted)
            if len(self._ready) > MAX_COMPILED:
                self._ready.popitem(last=False)
        return TokenGrammar(matcher.deep_copy(), self._control)

    def _compiled(self, wanted: StructuredOutputs) -> LLMatcher:
        form = self._grammar(wanted)
        if wanted.kind not in _TRUSTED:
            self._try(wanted.kind, form)
        matcher = self._library.LLMatcher(self._tokenizer, form, log_level=0, limits=self._limits)
        if not matcher.is_error():
            matcher.compute_bitmask()  # a grammar without any text fails here
        if matcher.is_error():
            _refuse(wanted.kind, matcher.get_error())
        for warning in matcher.get_grammar_warnings():
            remark(_COUNT.sub("", warning))
        return matcher

    def _try(self, kind: str, form: str) -> None:
        """Refuse what takes too long, or too much memory, to compile."""
        asked = {"form": form, "limits": LIMITS, "seconds": COMPILE_SECONDS}
        answer = self._trial.ask(json.dumps(asked).encode(), _PATIENCE_SECONDS)
        if "fault" in answer:
            raise ArgumentError(
                f"structured_outputs.{kind}",
                got="one that takes too long, or too much memory, to compile",
                expected=f"one that takes less than {COMPILE_SECONDS} s",
                fix="make it smaller, with fewer or simpler expressions and smaller numbers",
            )

    def _grammar(self, wanted: StructuredOutputs) -> str:
        """In the library's own form."""
        try:
            return library_form(wanted, self._library)
        except (ValueError, RecursionError) as error:
            _refuse(wanted.kind, str(error))


class _Tokens:
    """The tokenizer that the library asks for; it is never made to split a text."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(
        self, vocabulary: Vocabulary, vocab_size: int, control: list[int], ends: list[int]
    ) -> None:
        self.tokens = [vocabulary.token_bytes(token) for token in range(vocab_size)]
        for token in ends:
            self.tokens[token] = b""  # no text: one may come where the text may end
        self.special_token_ids = control
        self.eos_token_id = ends[0]

    def __call__(self, text: bytes | str) -> NoReturn:
        raise NotImplementedError("a constraint chooses no tokens")


_UNKNOWN = {
    "look-around": "an expression without look-ahead and look-behind, such as (?=…) or (?<!…)",
    "backreferences": "an expression without backreferences, such as \\1",
}


def _refuse(kind: str, why: str) -> NoReturn:
    told = " ".join(why.split())
    named = next((text for word, text in _UNKNOWN.items() if word in told), None)
    raise ArgumentError(
        f"structured_outputs.{kind}",
        got=told[:200] or "a grammar beyond the limits",
        expected=named or "one that llguidance can follow within its limits",
        fix="say it in other words" if named else "make it smaller or correct it",
    )
