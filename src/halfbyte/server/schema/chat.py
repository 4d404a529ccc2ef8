"""POST /v1/chat/completions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    model_validator,
)
from pydantic_core import PydanticCustomError

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
MAX_PARTS = 4096  # of a message
MAX_TOOLS = 128
MAX_VARIABLES = 64
FunctionName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]


# The texts of parts: OpenAI's two interfaces name them differently.
_TEXT_PARTS = ("text", "input_text", "output_text")


class Sent(Body):
    """Part of a conversation, as clients send it back: with fields that others have added, which
    are kept under `model_extra` to be named in the log, and left out of the prompt."""

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="before")
    @classmethod
    def _no_unknown_field(cls, values: Any) -> Any:
        return values


class TextPart(Sent):
    """A text."""

    type: Literal["text", "input_text", "output_text"]
    text: str


class RefusalPart(Sent):
    """Why an earlier answer was none."""

    type: Literal["refusal"]
    refusal: str

    @property
    def text(self) -> str:
        """What the prompt says."""
        return self.refusal


def _readable(part: Any) -> Any:
    kind = part.get("type") if isinstance(part, dict) else None
    if isinstance(kind, str) and kind not in (*_TEXT_PARTS, "refusal"):
        told = "a part of type '{kind}': this model reads text only"
        raise PydanticCustomError("text_only", told, {"kind": kind[:40]})
    return part


def _form(content: Any) -> str:
    return "parts" if isinstance(content, list) else "text"


def _only_text(value: Any) -> Any:
    if value is not None:
        raise PydanticCustomError("text_only", "this model reads text only")
    return value


Part = Annotated[
    Annotated[TextPart | RefusalPart, Field(discriminator="type")], BeforeValidator(_readable)
]
Parts = Annotated[list[Part], Field(max_length=MAX_PARTS, fail_fast=True)]
Content = Annotated[
    Annotated[str, Tag("text")] | Annotated[Parts, Tag("parts")], Discriminator(_form)
]
OnlyText = Annotated[None, BeforeValidator(_only_text)]


class CalledFunction(Sent):
    """What the model wanted to call."""

    name: Label  # as the model wrote it
    arguments: str | dict[str, Any] | None = Field(
        default=None, description="A JSON object, as text."
    )


class ToolCall(Sent):
    """A call an earlier answer made."""

    id: Label | None = None
    index: int | None = Field(default=None, description="Of a streamed call; ignored.")
    type: Literal["function"] | None = "function"
    function: CalledFunction


class SystemMessage(Sent):
    """Instructions."""

    role: Literal["system", "developer"]
    content: Content
    name: Label | None = None


class UserMessage(Sent):
    """What the user says."""

    role: Literal["user"]
    content: Content
    name: Label | None = None


class AssistantMessage(Sent):
    """An earlier answer as the client sends it back."""

    role: Literal["assistant"]
    content: Content | None = None
    name: Label | None = None
    reasoning_content: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    refusal: str | None = Field(None, description="Accepted and ignored.")
    annotations: list[Any] | None = Field(None, description="Accepted and ignored.")
    audio: OnlyText = None
    function_call: CalledFunction | None = Field(None, description="The older form of a call.")


class ToolMessage(Sent):
    """What a called tool returned."""

    role: Literal["tool", "function"]
    content: Content | None
    tool_call_id: Label | None = None
    name: Label | None = None


Message = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")
]
Messages = Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]


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


Variables = Annotated[dict[str, Any], Field(max_length=MAX_VARIABLES)]
Tools = Annotated[list[Tool], Field(max_length=MAX_TOOLS, fail_fast=True)]


class NamedFunction(Body):
    """The one function that must be called."""

    name: FunctionName


class NamedTool(Body):
    """The one tool that must be used."""

    type: Literal["function"]
    function: NamedFunction


class ChatBody(SamplingBody):
    """A conversation to answer."""

    messages: Messages
    max_tokens: Annotated[int, Field(ge=1, le=INT32)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=INT32)] | None = None
    logprobs: bool | None = False
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    tools: Tools | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    chat_template_kwargs: Variables | None = Field(
        None, description="Variables for the model's own template, such as enable_thinking."
    )
    modalities: Annotated[list[Literal["text"]], Field(fail_fast=True)] | None = Field(
        None, description="Accepted and ignored."
    )
    metadata: dict[str, Any] | None = Field(None, description="Accepted and ignored.")
    store: bool | None = Field(None, description="Accepted and ignored: nothing is stored.")
    service_tier: Label | None = Field(None, description="Accepted and ignored.")
    reasoning_effort: Label | None = Field(
        None, description="For the model's template; 'none' asks it for an answer without thinking."
    )
    enable_thinking: bool | None = Field(
        None, description="For the model's template: whether the model thinks before it answers."
    )
    thinking_token_budget: Annotated[int, Field(ge=0, le=INT32)] | None = Field(
        None, description="Tokens of reasoning after which its closing tag is forced."
    )
    add_generation_prompt: bool | None = Field(
        None, description="For the model's template; by default true unless a message goes on."
    )
    continue_final_message: bool | None = Field(
        None, description="The answer continues the last message instead of beginning a new one."
    )
    special_tokens_in_messages: bool | None = Field(
        None,
        description="Control tokens that messages spell are control tokens; else they are text.",
    )
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
    """One entry per token."""

    content: list[TokenLogprob] | None


class AnsweredFunction(BaseModel):
    """What is to be called."""

    name: str
    arguments: str = Field(description="A JSON object, as text.")


class AnsweredCall(BaseModel):
    """A call the model made."""

    id: str
    type: Literal["function"]
    function: AnsweredFunction


class AnsweredMessage(BaseModel):
    """The model's answer."""

    role: Literal["assistant"]
    content: str | None
    reasoning_content: str | None = Field(None, description="What the model thought, if it says.")
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
