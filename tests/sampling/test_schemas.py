"""Schemas that pydantic and zod make: followed, whatever of them cannot be enforced."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from pydantic import TypeAdapter

from halfbyte.sampling.grammar import GrammarCompiler, TokenGrammar
from halfbyte.sampling.params import StructuredOutputs
from halfbyte.server.schema.chat import ChatBody
from halfbyte.server.structured import chat_constraint
from halfbyte.text.codec import TextCodec
from tests.sampling.pydantic_schemas import MODELS, schema_of
from tests.sampling.zod_schemas import SCHEMAS
from tests.support.talking_model import EOS, VOCAB
from tests.text.test_codec import CODEC

# What pydantic checks and no grammar can: a JSON text in a string, entries that are unique, names
# that are numbers or of an enum, digits of a decimal.
LOOSE = ("Odd", "Containers", "set[int]", "Colour, int]", "Decimal")
pydantic_table = pytest.mark.parametrize(("kind", "value"), MODELS, ids=lambda v: str(v)[:50])


@pytest.fixture(scope="module")
def compiler() -> GrammarCompiler:
    pytest.importorskip("llguidance")
    return GrammarCompiler(CODEC, VOCAB, [EOS])


def follows(grammar: TokenGrammar, text: str, codec: TextCodec = CODEC) -> bool:
    """Whether the grammar takes this text whole."""
    for token in codec.encode(text, as_chat=True):
        mask = grammar.mask()
        assert mask is not None
        if not int(mask[token // 32]) >> (token % 32) & 1:
            return False
        assert grammar.push(token), "what a mask allows is taken"
    mask = grammar.mask()
    return mask is not None and bool(int(mask[EOS // 32]) >> (EOS % 32) & 1)


def written(grammar: TokenGrammar, seed: int, limit: int = 3000) -> str | None:
    """A text that the grammar allows, with a liking for its end; None: too long."""
    draw, tokens = random.Random(seed), list[int]()
    while len(tokens) < limit:
        mask = grammar.mask()
        assert mask is not None
        allowed = [t for t in range(VOCAB) if int(mask[t // 32]) >> (t % 32) & 1]
        ends = [t for t in allowed if CODEC.token_text(t) in '"}],' or t == EOS]
        token = draw.choice(ends if ends and draw.random() < 0.4 else allowed)
        if token == EOS:
            break
        assert grammar.push(token), "what a mask allows is taken"
        tokens.append(token)
        if grammar.is_complete:
            break
    return CODEC.decode(tokens) if len(tokens) < limit else None


def test_there_are_84() -> None:
    assert len(MODELS) + len(SCHEMAS) == 84


@pydantic_table
def test_a_pydantic_model_is_followed(compiler: GrammarCompiler, kind: Any, value: Any) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    adapter.validate_json(json.dumps(value, ensure_ascii=False))
    for mode in ("validation", "serialization"):
        if mode == "serialization" and "Odd" in str(kind):
            continue  # its secret is hidden, its inner JSON is an object
        wanted = StructuredOutputs(json=json.dumps(schema_of(kind, mode)))
        for indent in (None, 2):
            text = json.dumps(value, ensure_ascii=False, indent=indent)
            assert follows(compiler.compile(wanted), text), text
        for part in ("", "{", "nothing"):
            assert not follows(compiler.compile(wanted), part)


@pydantic_table
def test_what_is_written_is_a_model(compiler: GrammarCompiler, kind: Any, value: Any) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    wanted = StructuredOutputs(json=json.dumps(schema_of(kind)))
    for seed in range(4):
        text = written(compiler.compile(wanted), seed)
        if text is not None:
            read = json.loads(text)
            if not any(name in str(kind) for name in LOOSE):
                adapter.validate_json(text)
            assert len(json.dumps(read)) > 0


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_zod_schema_is_followed(compiler: GrammarCompiler, name: str) -> None:
    schema, value, others = SCHEMAS[name]
    for given in (schema, json.dumps(schema)):
        assert follows(
            compiler.compile(StructuredOutputs(json=given)), json.dumps(value, ensure_ascii=False)
        )
    for other in others:
        text = json.dumps(other, ensure_ascii=False)
        assert not follows(compiler.compile(StructuredOutputs(json=schema)), text), text


def _arguments_follow(compiler: GrammarCompiler, schemas: list[Any], values: list[Any]) -> None:
    """As the parameters of tools, one of which has to be called."""
    tools = [
        {"type": "function", "function": {"name": f"tool{i}", "parameters": schema}}
        for i, schema in enumerate(schemas)
    ]
    for i, value in enumerate(values):
        call = {"name": f"tool{i}", "arguments": value}
        choices: list[Any] = ["required", {"type": "function", "function": {"name": f"tool{i}"}}]
        for choice in choices:
            messages = [{"role": "user", "content": "a"}]
            body = {"messages": messages, "tools": tools, "tool_choice": choice}
            wanted = chat_constraint(ChatBody.model_validate(body))
            assert wanted is not None
            for indent in (None, 2):
                text = json.dumps(call, ensure_ascii=False, indent=indent)
                assert follows(compiler.compile(wanted), text), text
            other = {"name": "tool9", "arguments": value}
            assert not follows(compiler.compile(wanted), json.dumps(other))


@pydantic_table
def test_a_pydantic_model_is_followed_as_the_parameters_of_a_tool(
    compiler: GrammarCompiler, kind: Any, value: Any
) -> None:
    _arguments_follow(compiler, [schema_of(kind), SCHEMAS["recursive"][0]], [value])


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_zod_schema_is_followed_as_the_parameters_of_a_tool(
    compiler: GrammarCompiler, name: str
) -> None:
    _arguments_follow(compiler, [SCHEMAS[name][0], SCHEMAS[name][0]], [SCHEMAS[name][1]] * 2)
