"""Fields that completions and chat completions share."""

from __future__ import annotations

import difflib
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    create_model,
    model_validator,
)
from pydantic_core import PydanticCustomError

from halfbyte.options import Range
from halfbyte.sampling.params import SamplingParams

MAX_STOPS = 64
MAX_N = 16
MAX_LOGPROBS = 20
MAX_BIASES = 1024
INT32 = 2**31 - 1

StopText = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
TokenId = Annotated[int, Field(ge=0, le=INT32)]
Label = Annotated[str, StringConstraints(max_length=512)]


class Body(BaseModel):
    """JSON types as they are (no "5" for 5), no NaN, and no field this server does not know."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_unknown_field(cls, values: Any) -> Any:
        """The first one is named, and the nearest that is known: pydantic would list them all."""
        names = {field.alias or name for name, field in cls.model_fields.items()}
        for name in values if isinstance(values, dict) else ():
            if name not in names:
                near = difflib.get_close_matches(name[:80], names, n=1)
                hint = f"did you mean '{near[0]}'?" if near else "leave it out"
                told = "unknown field '{name}': this server does not offer it; {hint}"
                named = {"name": name[:80], "hint": hint}
                raise PydanticCustomError("unknown_field", told, named)
        return values


def _few_biases(values: Any) -> Any:
    """Before each is checked."""
    if isinstance(values, dict) and len(values) > MAX_BIASES:
        raise PydanticCustomError("too_long", f"expected at most {MAX_BIASES} token ids")
    return values


Bias = Annotated[float, Field(ge=-100, le=100)]
Stops = Annotated[list[StopText], Field(max_length=MAX_STOPS, fail_fast=True)]


class StreamOptions(Body):
    """What a stream carries besides text."""

    include_usage: bool = False
    continuous_usage_stats: bool = False
    include_obfuscation: bool | None = Field(None, description="Accepted and ignored.")


class JsonSchemaFormat(Body):
    """OpenAI's envelope around a JSON schema."""

    name: Label = "answer"
    description: str | None = None
    schema_: dict[str, Any] | bool | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    """`text`, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class StructuredOutputs(Body):
    """Constraints on the text, named as vLLM names them; exactly one of them."""

    json_: dict[str, Any] | bool | None = Field(None, alias="json")
    regex: str | None = None
    choice: Annotated[list[str], Field(fail_fast=True)] | None = None
    grammar: str | None = None


def _offered() -> dict[str, Any]:
    """Numbers and switches of `SamplingParams` that commands show, as fields of a body."""
    found: dict[str, Any] = {}
    for each in fields(SamplingParams):
        shown, check = each.metadata.get("shown"), each.metadata.get("check")
        if shown is None or check is None:
            continue
        kind: Any = bool
        if isinstance(check, Range):
            low = 0 if check.or_zero else check.low  # in between: `SamplingParams` refuses it
            bounds: dict[str, Any] = {"gt" if check.open_low else "ge": low}
            bounds["lt" if check.open_high else "le"] = check.high
            kind = Annotated[check.kind, Field(**bounds)]
        found[each.name] = (kind | None, Field(each.default, description=shown.help))
    del found["max_tokens"]  # its default differs by endpoint
    return found


PARAMETERS = _offered()

if TYPE_CHECKING:
    Parameters = Body
else:
    Parameters = create_model("Parameters", __base__=Body, **PARAMETERS)


class SamplingBody(Parameters):
    """How tokens are drawn; OpenAI's and vLLM's names.

    What `SamplingParams` shows as an option is a field under its name. Declared here is what has
    another form, or other bounds, in OpenAI's API.
    """

    model: Label | None = Field(None, description="The served model's name; may be left out.")
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MAX_N)] | None = 1
    temperature: Annotated[float, Field(ge=0, le=100)] | None = 1.0
    stop: StopText | Stops | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    logit_bias: Annotated[dict[str, Bias] | None, BeforeValidator(_few_biases)] = None
    user: Label | None = Field(None, description="Accepted and ignored.")

    stop_token_ids: Annotated[list[TokenId], Field(max_length=MAX_STOPS, fail_fast=True)] | None = (
        None
    )
    priority: Annotated[int, Field(ge=-1000, le=1000)] | None = Field(
        0, description="A lower number is served earlier."
    )
    structured_outputs: StructuredOutputs | None = None

    cascade: Label | None = Field(
        None, description="One of the cascades the server allows; the output is the same."
    )
    return_fates: bool | None = Field(
        False, description="Say per token which stage proposed it and whether it was accepted."
    )
