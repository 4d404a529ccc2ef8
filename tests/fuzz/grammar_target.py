"""What fuzzing of grammars runs, in a process of its own: KIND SECONDS FIRST FILE.

The seed of the input that is tried stands in FILE before it is: a crash or an endless loop in the
library leaves it there. An input may be refused in one line; a text under it may end early.
"""

from __future__ import annotations

import gc
import json
import os
import random
import sys
import time
from pathlib import Path

import numpy as np

from halfbyte.errors import ArgumentError
from halfbyte.sampling.grammar import GrammarCompiler, TokenGrammar
from halfbyte.sampling.params import StructuredOutputs
from halfbyte.text.codec import TextCodec
from tests.fuzz.http_inputs import mutated_bytes, mutated_json, rounds, seeds
from tests.support.talking_model import EOS, VOCAB
from tests.text.test_codec import CODEC

KINDS = ("json", "regex", "lark", "gbnf")
LONGEST_SECONDS = 20.0  # of one input, on a machine with other work
MAX_GROWN_BYTES = 96 << 20  # after the first quarter
STEPS = 40

_NAMES = """type properties items required anyOf oneOf allOf $ref $defs definitions const enum
pattern format minLength maxLength minItems maxItems prefixItems additionalProperties not if
patternProperties propertyNames minimum maximum exclusiveMinimum multipleOf uniqueItems $id $anchor
x-guidance whitespace_pattern item_separator $schema minProperties contains"""
_WORDS = r"""( ) [ ] { } * + ? | . ^ $ \ / " ' & ~ - , : ; # < > = ! % @ 0 9 {2} {0,99} {1000} {,}
start: A: root ::= é 🙂 (?: (?= (?! (?i) \d \w \b \1 \x{110000} \p{L} [^a] [a-z] [[:alpha:]] %ignore
%json %regex %llguidance <|im|> <[7]> .* .+ (a|b)* "a" start A root && -- ~~ "x".."z" [lazy]
[stop="a"] [max_tokens=3] #/$defs/N"""
NAMES = tuple(_NAMES.split())
WORDS = (*(word.encode() for word in _WORDS.split()), b"\n", b"\t", b" ", b"\0", b"\xef\xbb\xbf")


def main() -> None:
    """Prints how many inputs were taken and how many refused."""
    kind, seconds, first, note = (
        sys.argv[1],
        float(sys.argv[2]),
        int(sys.argv[3]),
        Path(sys.argv[4]),
    )
    compiler = GrammarCompiler(CODEC, VOCAB, [EOS])
    corpus = seeds(f"grammar-{kind}")
    counts = {"taken": 0, "refused": 0, "complete": 0}
    began, settled = time.monotonic(), 0
    for seed, rng in rounds(seconds, first):
        note.write_text(str(seed), encoding="utf-8")
        started = time.monotonic()
        counts[_try(kind, rng, corpus, compiler)] += 1
        took = time.monotonic() - started
        assert took < LONGEST_SECONDS, f"seed {seed} took {took:.1f} s"
        if not settled and time.monotonic() - began > seconds / 4:
            settled = _resident_bytes()
    grown = _resident_bytes() - (settled or _resident_bytes())
    assert grown < MAX_GROWN_BYTES, f"{grown >> 20} MiB more than before"
    print(json.dumps(counts | {"grown_mib": grown >> 20}))


def _try(kind: str, rng: random.Random, corpus: list[bytes], compiler: GrammarCompiler) -> str:
    data = mutated_json(rng, corpus, NAMES) if kind == "json" else mutated_bytes(rng, corpus, WORDS)
    text = data.decode("utf-8", errors="surrogateescape" if rng.random() < 0.02 else "replace")
    field = {"json": "json", "regex": "regex"}.get(kind, "grammar")
    try:
        grammar = compiler.compile(StructuredOutputs(**{field: text}))
    except ArgumentError as error:
        told = str(error)
    else:
        told = ""
    assert len(told.splitlines()) <= 1, text
    assert len(told) < 1500, text
    if told:
        return "refused"
    written = _walk(grammar, rng)
    if written is None:
        return "taken"
    if kind == "json":
        json.loads(written)
    return "complete"


def _walk(grammar: TokenGrammar, rng: random.Random, codec: TextCodec = CODEC) -> str | None:
    """Follow a text; the text, if it came to its end. What is taken back changes nothing."""
    tokens: list[int] = []
    while len(tokens) < STEPS and not grammar.is_complete:
        mask = grammar.mask()
        if mask is None:
            return None
        allowed = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")).tolist()
        assert allowed, "a mask allows something"
        assert max(allowed) < VOCAB
        if EOS in allowed and rng.random() < 0.3:
            assert grammar.push(EOS), "what a mask allows is taken"
            assert grammar.is_complete
            return codec.decode(tokens)
        if rng.random() < 0.2:
            _look(grammar, rng, allowed)
            again = grammar.mask()
            assert again is not None, "a look ahead changes nothing"
            assert np.array_equal(again, mask), "a look ahead changes nothing"
        token = rng.choice(allowed)
        if not grammar.push(token):
            matcher = grammar._matcher.deep_copy()
            assert matcher.try_consume_tokens([token]) == 0
            assert matcher.is_error(), "only its limits make it refuse what a mask allows"
            return None
        if token == EOS:
            break
        tokens.append(token)
    return codec.decode(tokens) if grammar.is_complete else None


def _look(grammar: TokenGrammar, rng: random.Random, allowed: list[int]) -> None:
    """Follow some proposals, each with a grammar of its own."""
    for _ in range(rng.randint(1, 5)):
        grammar = grammar.fork()
        if grammar.is_complete or not grammar.push(rng.choice(allowed)):
            return
        mask = grammar.mask()
        if mask is None:
            return
        allowed = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")).tolist()


def _resident_bytes() -> int:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
