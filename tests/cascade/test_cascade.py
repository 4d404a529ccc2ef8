"""The cascade string and what it refuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfbyte.cascade.cascade import Cascade
from halfbyte.config import LEVEL_NAMES, Level
from halfbyte.errors import ArgumentError
from tests.fake_runtime import FakeRuntime

LEVELS = [*LEVEL_NAMES, "w4a8+h8", "w4a8+h4", "w8a16+h4"]


@given(st.lists(st.sampled_from(LEVELS), min_size=1, max_size=2))
def test_string_form_parses_back_to_the_same_cascade(names: list[str]) -> None:
    cascade = Cascade(tuple(Level.parse(n) for n in names))
    assert Cascade.parse(str(cascade)) == cascade
    assert Cascade.parse("  " + ">".join(names) + " ") == cascade


def test_last_stage_is_the_target_and_first_the_draft() -> None:
    cascade = Cascade.parse("w4a8 > w8a16")
    assert (cascade.draft, cascade.target) == (Level(4, 8), Level(8, 16))
    assert cascade.plain == Cascade.parse("w8a16")
    assert cascade.plain.draft is None


@pytest.mark.parametrize(
    "text",
    ["ngram > w8a16", "eagle:dir > w4a16", "model:x@w4a16 > w8a16", "auto"],
)
def test_stages_of_later_versions_are_refused_by_kind(text: str) -> None:
    with pytest.raises(ArgumentError, match=r"this version runs LEVEL or LEVEL > LEVEL"):
        Cascade.parse(text)


@pytest.mark.parametrize(
    "text", ["", " ", ">", "w8a16 >", "w4a8 > w4a16 > w8a16", "w4a9", "f32+h4"]
)
def test_malformed_cascades_are_one_line_errors(text: str) -> None:
    with pytest.raises(ArgumentError) as error:
        Cascade.parse(text)
    assert "\n" not in str(error.value)


def test_misspelt_level_names_the_nearest() -> None:
    with pytest.raises(ArgumentError, match="did you mean 'w8a16'"):
        Cascade.parse("w4a8 > w8a61")


def test_levels_the_weights_cannot_run_are_refused() -> None:
    with pytest.raises(ArgumentError, match="run f32 alone"):
        Cascade.parse("f32").require(FakeRuntime())
    with pytest.raises(ArgumentError, match="low planes"):
        Cascade.parse("w8a16").require(FakeRuntime(planes=False))
    Cascade.parse("w4a8 > w8a16").require(FakeRuntime())
