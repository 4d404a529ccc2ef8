"""POST /v1/chat/completions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StringConstraints

from halfbyte.server.schema.answers import Speculation, Usage
from halfbyte.server.schema.sampling import (
    INT32,
    MAX_LOGPROBS,
    Body,
    Label,
    ResponseFormat,
    SamplingBody,
)

MAX_MESSAGES = 4096
MAX_TOOLS = 128
FunctionName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]


class TextPart(Body):
    """A part of a message; this server reads text only."""

    type: Literal["text"]
    text: str


Content = str | list[TextPart]


class CalledFunction(Body):
    """What the model wanted to call."""

    name: FunctionName
    arguments: str = Field(description="A JSON object, as text.")


class ToolCall(Body):
    """A call an earlier answer made."""

    id: Label
    type: Literal["function"] = "function"
    function: CalledFunction


class SystemMessage(Body):
    """Instructions."""

    role: Literal["system", "developer"]
    content: Content
    name: Label | None = None


class UserMessage(Body):
    """What the user says."""

    role: Literal["user"]
    content: Content
    name: Label | None = None


class AssistantMessage(Body):
    """An earlier answer."""

    role: Literal["assistant"]
    content: Content | None = None
    name: Label | None = None
    refusal: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_TOOLS)] | None = None


class ToolMessage(Body):
    """What a called tool returned."""

    role: Literal["tool"]
    content: Content
    tool_call_id: Label


Message = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")
]


class Function(Body):
    """A function the model may call; `parameters` is a JSON schema."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Body):
    """A tool the model may use."""

    type: Literal["function"]
    function: Function


class NamedFunction(Body):
    """The one function that must be called."""

    name: FunctionName


class NamedTool(Body):
    """The one tool that must be used."""

    type: Literal["function"]
    function: NamedFunction


class ChatBody(SamplingBody):
    """A conversation to answer."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_tokens: Annotated[int, Field(ge=1, le=INT32)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=INT32)] | None = None
    logprobs: bool | None = False
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    chat_template_kwargs: dict[str, Any] | None = Field(
        None, description="Variables for the model's own template, such as enable_thinking."
    )
    modalities: list[Literal["text"]] | None = Field(None, description="Accepted and ignored.")
    metadata: dict[str, str] | None = Field(None, description="Accepted and ignored.")
    store: bool | None = Field(None, description="Accepted and ignored: nothing is stored.")
    service_tier: Label | None = Field(None, description="Accepted and ignored.")
    reasoning_effort: Label | None = Field(None, description="Accepted and ignored.")
    verbosity: Label | None = Field(None, description="Accepted and ignored.")
    prompt_cache_key: Label | None = Field(None, description="Accepted and ignored.")
    safety_identifier: Label | None = Field(None, description="Accepted and ignored.")


class TopLogprob(BaseModel):
    """A token that could have been drawn."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """A token that was drawn."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """One entry a token."""

    content: list[TokenLogprob] | None


class AnsweredCall(BaseModel):
    """A call the model made."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class AnsweredMessage(BaseModel):
    """The model's answer."""

    role: Literal["assistant"]
    content: str | None
    refusal: None = None
    tool_calls: list[AnsweredCall] | None = None


class ChatChoice(BaseModel):
    """One answer."""

    index: int
    message: AnsweredMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: Literal["stop", "length", "tool_calls"]
    halfbyte: Speculation | None = None


class ChatCompletion(BaseModel):
    """The answer; a stream sends `chat.completion.chunk` objects instead, with deltas."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
