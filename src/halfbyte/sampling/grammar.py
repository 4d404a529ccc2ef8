"""Structured output: JSON schemas, regular expressions, choices and grammars, through llguidance.

A `GrammarCompiler` holds what a tokenizer needs, made once a model; a `TokenGrammar` follows one
text. A request's grammar is hostile input: its size, depth and the work of a step are bounded.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from halfbyte.errors import ArgumentError
from halfbyte.sampling.params import StructuredOutputs
from halfbyte.sampling.shaper import Words

if TYPE_CHECKING:
    from llguidance import LLMatcher

MAX_COMPILED = 64  # grammars kept ready
# Parser work; about 20 ms to compile and a few ms a mask at most on one core.
MAX_GRAMMAR_SIZE = 50_000
INITIAL_FUEL = 1_000_000
STEP_FUEL = 200_000
STEP_ITEMS = 50_000
MAX_LEXER_STATES = 50_000


class TokenGrammar:
    """One text under a grammar. See `engine.shaper.Grammar`."""

    def __init__(self, matcher: LLMatcher, vocab_size: int) -> None:
        self._matcher = matcher
        self._words = -(-vocab_size // 32)

    @property
    def is_complete(self) -> bool:
        """Whether nothing can follow: the text is whole, or an end token was taken."""
        return bool(self._matcher.is_stopped())

    def mask(self) -> Words | None:
        """Tokens that may come next; a text that could end here may take an end token."""
        if self._matcher.is_error():
            return None
        words = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint32)
        return None if self._matcher.is_error() else words[: self._words]

    def push(self, token: int) -> bool:
        """Take a token if it is allowed."""
        return bool(self._matcher.try_consume_tokens([token]) == 1)

    def pop(self, count: int) -> None:
        """Take back the last tokens."""
        self._matcher.rollback(count)


class GrammarCompiler:
    """Makes grammars over one tokenizer; what was compiled last is kept. For any thread."""

    def __init__(self, tokenizer_json: str, vocab_size: int, end_ids: Iterable[int]) -> None:
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
        self._vocab_size = vocab_size
        self._tokenizer = llguidance.LLTokenizer(tokenizer_json, n_vocab=vocab_size, eos_token=ends)
        self._limits = llguidance.LLParserLimits(
            max_grammar_size=MAX_GRAMMAR_SIZE,
            initial_lexer_fuel=INITIAL_FUEL,
            step_lexer_fuel=STEP_FUEL,
            step_max_items=STEP_ITEMS,
            max_lexer_states=MAX_LEXER_STATES,
            precompute_large_lexemes=False,
            verbose_errors=False,
        )
        self._ready: OrderedDict[StructuredOutputs, LLMatcher] = OrderedDict()
        self._lock = threading.Lock()  # of `_ready`, never held while compiling

    def compile(self, wanted: StructuredOutputs) -> TokenGrammar:
        """A grammar at its beginning. Raises `ArgumentError` for one that cannot be used."""
        with self._lock:
            matcher = self._ready.get(wanted)
        if matcher is None:
            matcher = self._library.LLMatcher(
                self._tokenizer, self._grammar(wanted), log_level=0, limits=self._limits
            )
            if matcher.is_error():
                raise _refused(wanted.kind, matcher.get_error())
        with self._lock:
            self._ready[wanted] = matcher
            self._ready.move_to_end(wanted)
            if len(self._ready) > MAX_COMPILED:
                self._ready.popitem(last=False)
        return TokenGrammar(matcher.deep_copy(), self._vocab_size)

    def _grammar(self, wanted: StructuredOutputs) -> str:
        """In the library's own form; never a path or a name that it would look up."""
        make = self._library.LLMatcher
        try:
            if wanted.json_object:
                return str(make.grammar_from_json_schema('{"type": "object"}'))
            if wanted.json is not None:
                return str(make.grammar_from_json_schema(str(wanted.json)))
            if wanted.regex is not None:
                return str(make.grammar_from_regex(wanted.regex))
            if wanted.choice is not None:
                words = " | ".join(json.dumps(word, ensure_ascii=False) for word in wanted.choice)
                return str(make.grammar_from_lark(f"start: {words}"))
            return str(make.grammar_from_lark(str(wanted.grammar)))
        except ValueError as error:
            raise _refused(wanted.kind, str(error)) from error


def _refused(kind: str, why: Any) -> ArgumentError:
    return ArgumentError(
        f"structured_outputs.{kind}",
        got=" ".join(str(why).split())[:200] or "a grammar beyond the limits",
        expected="one that llguidance can follow within its limits",
        fix="make it smaller or correct it",
    )
