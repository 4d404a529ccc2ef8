"""What several answers contain, and the small ones."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class PromptDetails(BaseModel):
    """Of the prompt's tokens."""

    cached_tokens: int = Field(description="Found in the prefix cache, and not computed again.")


class Usage(BaseModel):
    """Token counts of a request, all its choices together."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class Statistics(BaseModel):
    """How the tokens came about (`return_fates`)."""

    cascade: str
    tau: float = Field(description="Mean tokens emitted per target forward.")
    alpha: list[float] = Field(description="Agreement by draft position.")
    proposed_by_position: list[int]
    accepted_by_position: list[int]
    tokens_per_second: float
    prefill_seconds: float


class Speculation(BaseModel):
    """One entry per token: its text, and which stage proposed it (`return_fates`)."""

    pieces: list[str]
    fates: list[Literal["accepted", "recovered", "bonus", "plain"]]
    statistics: Statistics | None = None


class ErrorDetail(BaseModel):
    """OpenAI's error."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """Every answer that is not a success."""

    error: ErrorDetail


class ServedBy(BaseModel):
    """What this model may be asked for."""

    cascades: list[str]
    default_cascade: str


class Model(BaseModel):
    """A model that is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int
    halfbyte: ServedBy


class ModelList(BaseModel):
    """The models that are served."""

    object: Literal["list"]
    data: list[Model]


class Health(BaseModel):
    """Whether requests are taken, and steps end."""

    status: Literal["ok", "draining", "stalled", "failed"]
