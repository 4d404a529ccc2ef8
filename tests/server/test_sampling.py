"""From the fields of a body to `SamplingParams`."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from pydantic import ValidationError

from halfbyte.runtime.protocol import SamplingRow
from halfbyte.sampling.params import SamplingParams
from halfbyte.server.sampling import sampling_params
from halfbyte.server.schema.chat import ChatBody
from halfbyte.server.schema.completion import CompletionBody
from halfbyte.server.schema.sampling import PARAMETERS

VALUES: dict[str, Any] = {
    "temperature": 0.5,
    "top_k": 7,
    "top_p": 0.75,
    "min_p": 0.25,
    "seed": 11,
    "ignore_eos": True,
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
    "repetition_penalty": 1.5,
    "min_tokens": 3,
}


def test_a_parameter_of_the_record_that_the_kernel_reads_is_a_field_of_every_body() -> None:
    """Whatever parameters there are: none is listed by hand."""
    named = {f.name for f in fields(SamplingParams)} & set(SamplingRow._fields)
    assert named < set(PARAMETERS) == set(VALUES)
    for body in (CompletionBody, ChatBody):
        assert set(PARAMETERS) < body.model_fields.keys()


@pytest.mark.parametrize("name", VALUES)
def test_each_arrives_and_null_is_its_default(name: str) -> None:
    value = VALUES[name]
    body = CompletionBody.model_validate({"prompt": "a", name: value})
    params = sampling_params(body, max_tokens=9)
    assert params == SamplingParams(max_tokens=9, **{name: value})
    body = CompletionBody.model_validate({"prompt": "a", name: None})
    assert sampling_params(body, max_tokens=9) == SamplingParams(max_tokens=9)


WRONG: list[tuple[str, Any]] = [
    ("temperature", -1), ("top_k", -2), ("top_k", 1.5), ("top_k", True), ("top_p", 0), ("top_p", 2),
    ("min_p", -0.1), ("min_p", 1.1), ("min_tokens", -1), ("ignore_eos", 1),
    ("presence_penalty", 2.1), ("frequency_penalty", "0"), ("repetition_penalty", 0),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_bounds_and_types_are_those_of_the_parameter(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        CompletionBody.model_validate({"prompt": "a", name: value})
    with pytest.raises(Exception, match=name):
        SamplingParams.from_dict({name: value})
