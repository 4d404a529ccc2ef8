import argparse

import pytest
from benchmarks.measure.arguments import alias, kinds, renamed

from halfbyte.errors import ArgumentError


def test_rows_have_names_in_the_place_of_paths() -> None:
    assert alias("/a/b.gguf=b") == ("/a/b.gguf", "b")
    assert renamed("auto | model:/a/b.gguf@w4a8 > w8a16", {"/a/b.gguf": "b"}) == (
        "auto | model:b@w4a8 > w8a16"
    )
    with pytest.raises(argparse.ArgumentTypeError):
        alias("=b")


def test_a_path_without_a_name_loses_its_directories() -> None:
    shown = renamed("ngram > model:/home/me/b.gguf@w4a8 > w8a16 @5/4", {})
    assert shown == "ngram > model:b.gguf@w4a8 > w8a16 @5/4"
    assert renamed("eagle:../heads/a > w8a16 @8", {}) == "eagle:a > w8a16 @8"


def test_an_unknown_kind_of_work_is_refused() -> None:
    assert kinds(["chat", "edit"]) == ["chat", "edit"]
    with pytest.raises(ArgumentError, match="prose"):
        kinds(["prose"])
