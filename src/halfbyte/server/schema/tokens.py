"""POST /tokenize and /detokenize, in the shapes of vLLM and of llama.cpp."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, Field, model_validator

from halfbyte.server.schema.chat import Messages, Tools, Variables
from halfbyte.server.schema.sampling import Body, Label, TokenId

MAX_TOKENS = 1 << 18  # to turn into text at once


class TokenizeBody(Body):
    """Exactly one of `prompt`, `content` (its name in llama.cpp) and `messages`."""

    model: Label | None = None
    prompt: str | None = None
    content: str | None = None
    messages: Messages | None = None
    tools: Tools | None = None
    add_special_tokens: bool = True
    return_token_strs: bool = False
    chat_template_kwargs: Variables | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    special_tokens_in_messages: bool | None = None

    @model_validator(mode="after")
    def _one_text(self) -> Self:
        if sum(x is not None for x in (self.prompt, self.content, self.messages)) != 1:
            raise ValueError("give exactly one of 'prompt', 'content' and 'messages'")
        return self


class Tokens(BaseModel):
    """Token ids of a text."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeBody(Body):
    """Token ids to turn into text."""

    model: Label | None = None
    tokens: Annotated[list[TokenId], Field(max_length=MAX_TOKENS, fail_fast=True)]


class Text(BaseModel):
    """The text, under vLLM's name and llama.cpp's."""

    prompt: str
    content: str
