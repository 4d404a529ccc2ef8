"""POST /v1/completions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, Tag

from halfbyte.server.schema.answers import Speculation, Usage
from halfbyte.server.schema.sampling import (
    INT32,
    MAX_LOGPROBS,
    MAX_N,
    ResponseFormat,
    SamplingBody,
    TokenId,
)

MAX_PROMPTS = 64
Tokens = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]
Several = Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True)


def _kind(prompt: Any) -> str:
    """Which of the forms is meant, so that a fault is one of that form alone."""
    first = prompt[0] if isinstance(prompt, list) and prompt else ""
    if isinstance(first, list):
        return "token ids of each"
    if isinstance(prompt, list):
        return "texts" if isinstance(first, str) else "token ids"
    return "text"


class CompletionBody(SamplingBody):
    """A prompt, or several, as text or token ids."""

    prompt: Annotated[
        Annotated[str, Tag("text")]
        | Annotated[list[str], Several, Tag("texts")]
        | Annotated[Tokens, Tag("token ids")]
        | Annotated[list[Tokens], Several, Tag("token ids of each")],
        Discriminator(_kind),
    ]
    max_tokens: Annotated[int, Field(ge=1, le=INT32)] | None = 16
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    echo: bool | None = False
    best_of: Annotated[int, Field(ge=1, le=MAX_N)] | None = None
    suffix: Literal[""] | None = None
    response_format: ResponseFormat | None = None


class CompletionLogprobs(BaseModel):
    """One entry per token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """One completion of one prompt."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: Literal["stop", "length"] | None = None
    halfbyte: Speculation | None = None


class Completion(BaseModel):
    """The answer; a stream sends the same object piece by piece."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
