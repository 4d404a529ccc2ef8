"""Models in several files: opened by the first, refused where a part is missing or another's."""

import shutil

import numpy as np
import pytest

from halfbyte.errors import SourceError
from halfbyte.evaluate.provenance import fingerprint
from halfbyte.formats.names import expected_matrices
from halfbyte.importers import resolve
from halfbyte.importers.gguf_parts import part_paths
from halfbyte.importers.gguf_source import GgufSource
from tests.importers.tiny_gguf import TinyGguf
from tests.support.tensors import vectors_of


def split(path, parts=3, **how):
    return TinyGguf(parts=parts, **how).write(path)


def part(first, number, count=3):
    return first.with_name(first.name.replace("00001", f"{number:05d}"))


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_parts_are_the_model_that_was_split(tmp_path, parts):
    whole = GgufSource(TinyGguf().write(tmp_path / "whole.gguf"))
    source = GgufSource(split(tmp_path / "m.gguf", parts))
    assert source.config == whole.config
    assert source.tokenizer_json == whole.tokenizer_json
    assert source.natural == whole.natural
    assert source.description["types"] == whole.description["types"]
    for name, (rows, _) in expected_matrices(source.config):
        np.testing.assert_array_equal(source.rows(name, 0, rows), whole.rows(name, 0, rows))
    for name, _ in vectors_of(source.config):
        np.testing.assert_array_equal(source.vector(name), whole.vector(name))


def refused(first, match):
    with pytest.raises(SourceError, match=match) as caught:
        GgufSource(first)
    assert "\n" not in str(caught.value)


def test_a_missing_part_is_named(tmp_path):
    first = split(tmp_path / "m.gguf")
    part(first, 2).unlink()
    refused(first, r"m-00002-of-00003\.gguf.*part 2 of 3.*beside the first")


def test_another_part_than_the_first_says_which_to_name(tmp_path):
    first = split(tmp_path / "m.gguf")
    refused(part(first, 2), r"part 2 of 3.*name m-00001-of-00003\.gguf")


def test_parts_under_other_names_are_refused(tmp_path):
    first = split(tmp_path / "m.gguf")
    shutil.copy(first, tmp_path / "renamed.gguf")
    refused(tmp_path / "renamed.gguf", "-00001-of-00003")
    shutil.copy(first, tmp_path / "m-00001-of-00004.gguf")
    refused(tmp_path / "m-00001-of-00004.gguf", "-00001-of-00003")
    shutil.copy(part(first, 3), part(first, 2))
    refused(first, r"part 3 of 3 by its metadata.*part 2 of 3")


def test_a_part_of_another_split_is_refused(tmp_path):
    first = split(tmp_path / "m.gguf")
    other = split(tmp_path / "n.gguf", 2)
    shutil.copy(part(other, 2, 2).with_name("n-00002-of-00002.gguf"), part(first, 2))
    refused(first, r"part 2 of 2 by its metadata")
    split(tmp_path / "o.gguf", 3, layers=1)
    shutil.copy(tmp_path / "o-00002-of-00003.gguf", part(first, 2))
    refused(first, r"tensor .* in two parts|tensors in 3 parts")


def test_a_part_that_is_cut_short_is_refused(tmp_path):
    first = split(tmp_path / "m.gguf")
    data = part(first, 3).read_bytes()
    for content in (data[:-1], data[:40], b"", b"x" * 99):
        part(first, 3).write_bytes(content)
        refused(first, "m-00003-of-00003")


@pytest.mark.parametrize("value", [True, 1.5, "3", 1 << 31])
def test_numbers_of_parts_are_checked(tmp_path, value):
    path = TinyGguf(metadata={"split.count": value}).write(tmp_path / "m.gguf")
    refused(path, "split.count")


def test_a_claim_of_many_parts_ends_at_the_first_that_is_missing(tmp_path):
    path = TinyGguf(metadata={"split.count": 99_999, "split.no": 0})
    refused(path.write(tmp_path / "m-00001-of-99999.gguf"), "part 2 of 99999")


def test_the_cache_knows_every_part(tmp_path, monkeypatch):
    monkeypatch.setenv("HALFBYTE_CACHE", str(tmp_path / "cache"))
    first = split(tmp_path / "m.gguf")
    split(tmp_path / "other.gguf")
    assert part_paths(first) == [part(first, i) for i in (1, 2, 3)]
    made, print_ = resolve.resolve(first), fingerprint(first)
    assert resolve.resolve(first) == made
    split(tmp_path / "n.gguf", seed=1)
    shutil.copy(tmp_path / "n-00003-of-00003.gguf", part(first, 3))
    assert resolve.resolve(first) != made
    assert fingerprint(first) != print_


def test_a_name_like_a_part_of_a_file_that_is_whole_is_just_a_name(tmp_path):
    path = TinyGguf().write(tmp_path / "m-00001-of-00003.gguf")
    assert GgufSource(path).natural == (4, 32)
    assert part_paths(path) == [path]
