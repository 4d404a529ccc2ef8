"""Sampling parameters: every field checked, every mistake named."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfbyte import SamplingParams
from halfbyte.errors import ArgumentError
from halfbyte.runtime.protocol import SamplingRow
from halfbyte.sampling.sampler import GREEDY, sampling_of


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("temperature", 1e-30),
        ("temperature", "hot"),
        ("temperature", True),
        ("top_p", 0),
        ("top_p", 1.5),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("top_k", -2),
        ("top_k", 2.0),
        ("seed", -1),
        ("seed", 2**64),
        ("max_tokens", 0),
        ("max_tokens", 1.5),
        ("stop", [""]),
        ("stop", [3]),
        ("stop", 3),
        ("stop", ["x" * 5000]),
        ("stop_token_ids", [-1]),
        ("stop_token_ids", 7),
        ("ignore_eos", 1),
    ],
)
def test_a_value_out_of_range_is_one_line_that_names_its_field(name: str, value: Any) -> None:
    with pytest.raises(ArgumentError, match=name) as error:
        SamplingParams(**{name: value})
    assert "\n" not in str(error.value)


def test_an_unknown_name_gets_the_nearest_one() -> None:
    with pytest.raises(ArgumentError, match="did you mean 'temperature'"):
        SamplingParams.from_dict({"temprature": 0.5})
    assert SamplingParams.from_dict({"seed": 3}) == SamplingParams(seed=3)


def test_lists_and_single_strings_take_one_form() -> None:
    params = SamplingParams(stop="end", stop_token_ids=[1, 2])
    assert params.stop == ("end",)
    assert params.stop_token_ids == (1, 2)
    assert params == SamplingParams(stop=["end"], stop_token_ids=(1, 2))


@given(st.integers(0, 2**64 - 1))
def test_a_given_seed_is_the_one_used(seed: int) -> None:
    assert SamplingParams(seed=seed).sampler().row.seed == seed


def test_without_a_seed_every_request_gets_its_own() -> None:
    params = SamplingParams(top_k=-1)
    assert params.sampler().row.seed != params.sampler().row.seed
    assert params.sampler().row.top_k == 0


def test_every_field_of_the_record_that_a_request_names_is_the_request_s() -> None:
    """From parameters to the bytes that the kernel reads, whatever fields there are."""
    values = {"temperature": 0.5, "top_k": 7, "top_p": 0.75, "min_p": 0.25, "seed": 2**63 + 1}
    names = {f.name for f in fields(SamplingParams)} & set(SamplingRow._fields)
    assert set(values) == names
    sampler = SamplingParams(**values).sampler(index=3)  # type: ignore[arg-type]
    sampling = sampling_of([sampler, GREEDY], [11, 12, 13], [2, 1])
    told = [dict(zip(SamplingRow._fields, row, strict=True)) for row in sampling.rows.tolist()]
    same = values | {"seed": 2**63 + 4, "forced": -1, "tops": 0}
    assert told == [
        same | {"position": 11},
        same | {"position": 12},
        {**GREEDY.row._asdict(), "position": 13},
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("presence_penalty", 2.1),
        ("frequency_penalty", float("nan")),
        ("repetition_penalty", 0),
        ("logit_bias", {1: 101}),
        ("logit_bias", {"1": 1.0}),
        ("logit_bias", [1, 2]),
        ("logit_bias", {i: 1.0 for i in range(1025)}),
        ("min_tokens", 17),
        ("allowed_token_ids", []),
        ("allowed_token_ids", [-1]),
        ("logprobs", 21),
        ("prompt_logprobs", -1),
        ("n", 0),
        ("n", 129),
        ("best_of", 0),
        ("structured_outputs", {"json": "{}"}),
    ],
)
def test_values_out_of_range_name_their_parameter(name: str, value: object) -> None:
    with pytest.raises(ArgumentError, match=name):
        SamplingParams(**{name: value})  # type: ignore[arg-type]


def test_parameters_with_every_field_can_be_keys() -> None:
    one = SamplingParams(logit_bias={3: 1, 1: 2.0}, allowed_token_ids=[5, 4, 5], stop=["a"])
    two = SamplingParams(logit_bias=((1, 2.0), (3, 1.0)), allowed_token_ids=(4, 5), stop=("a",))
    assert len({one, two}) == 1
