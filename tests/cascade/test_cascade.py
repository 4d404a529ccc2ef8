"""The cascade string and what it refuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfbyte.cascade.cascade import Cascade
from halfbyte.cascade.stages import Auto, Eagle, Model, Ngram
from halfbyte.config import LEVEL_NAMES, Level
from halfbyte.errors import ArgumentError
from tests.support.fake_runtime import FakeRuntime

LEVELS = [*LEVEL_NAMES, "w4a8+h8", "w4a8+h4", "w8a16+h4"]
levels = st.sampled_from(LEVELS).map(Level.parse)
printable = st.characters(exclude_categories=["C", "Z"], include_characters=' >@"\\:|')
paths = st.text(printable, min_size=1, max_size=12)
models = st.builds(Model, paths, levels)
offers = st.lists(models | st.builds(Eagle, paths), max_size=4, unique=True).map(tuple)
autos = st.builds(Auto, offers)
first = levels | models | st.builds(Ngram) | st.builds(Eagle, paths)
cascades = st.one_of(
    st.tuples(levels),
    st.tuples(first | autos, levels),
    st.tuples(first, levels | models, levels),
    st.tuples(autos),
).map(Cascade)


@given(cascades)
def test_string_form_parses_back_to_the_same_cascade(cascade: Cascade) -> None:
    assert Cascade.parse(str(cascade)) == cascade
    assert Cascade.parse(f"  {cascade} ") == cascade


@given(st.lists(st.sampled_from(LEVELS), min_size=1, max_size=3))
def test_blanks_around_stages_do_not_matter(names: list[str]) -> None:
    assert Cascade.parse(">".join(names)) == Cascade.parse(" > ".join(names))


@given(st.text(max_size=40))
def test_any_text_is_a_cascade_or_a_one_line_error(text: str) -> None:
    try:
        cascade = Cascade.parse(text)
    except ArgumentError as refused:
        told = str(refused)
    else:
        told = str(Cascade.parse(str(cascade)) == cascade)
    assert told == "True" or (told and "\n" not in told)


def test_last_stage_is_the_target_and_the_one_before_it_the_draft() -> None:
    cascade = Cascade.parse("w4a8 > w8a16")
    assert (cascade.draft, cascade.target) == (Level(4, 8), Level(8, 16))
    assert cascade.plain == Cascade.parse("w8a16")
    assert cascade.plain.draft is None
    three = Cascade.parse("ngram > model:a@b@w4a8 > w8a16")
    assert three.stages == (Ngram(), Model("a@b", Level(4, 8)), Level(8, 16))
    assert three.levels == (Level(8, 16),)
    assert three.models == (Model("a@b", Level(4, 8)),)


def test_models_and_heads_may_be_offered_to_the_planner() -> None:
    cascade = Cascade.parse('auto | model:a@w4a8|eagle:"b | c > d" > w4a16')
    assert cascade.is_auto
    assert cascade.offers == (Model("a", Level(4, 8)), Eagle("b | c > d"))
    assert cascade.target == Level(4, 16)
    assert cascade.plain == Cascade.parse("w4a16")
    assert Cascade.parse("auto").offers == ()


def test_a_path_may_hold_what_the_grammar_uses() -> None:
    cascade = Cascade.parse(r'model:"odd > \"name\"@w8a16"@w4a8 > w8a16')
    assert cascade.models[0].path == 'odd > "name"@w8a16'


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        ">",
        "w8a16 >",
        "> w8a16",
        "w4a4 > w4a8 > w4a16 > w8a16",
        "w4a9",
        "f32+h4",
        "ngram",
        "w8a16 > ngram",
        "w4a8 > ngram > w8a16",
        "w4a8 > auto",
        "auto > w4a8 > w8a16",
        "model:x > w8a16",
        "model:@w4a8 > w8a16",
        "model:x@w4a9 > w8a16",
        'model:"x@w4a8 > w8a16',
        "model > w8a16",
        "eagle: > w8a16",
        "ngram:4 > w8a16",
        "eagle:a\nb > w8a16",
        "model:a\x00b@w4a8 > w8a16",
        "model:x@w4a8",
        "w" * 20000,
        "auto |",
        "auto | w4a8 > w8a16",
        "auto | ngram",
        "auto | auto > w8a16",
        "auto | model:x@w4a8 | model:x@w4a8 > w8a16",
        "auto | model:x@w4a8 > w4a8 > w8a16",
        "w4a8 > auto | model:x@w4a8",
        "w4a8 | model:x@w4a8 > w8a16",
        "auto | eagle:a | eagle:b | eagle:c | eagle:d | eagle:e",
    ],
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
