import os

import numpy as np
import pytest

from halfbyte.errors import ArgumentError, FormatError, HalfbyteError, SourceError
from halfbyte.formats.checkpoint import Checkpoint
from halfbyte.formats.weights import Dense, Planes
from halfbyte.importers import hub, resolve
from halfbyte.importers.cache import cache_directory
from tests.formats.tiny import write_checkpoint
from tests.importers.tiny_gguf import TinyGguf
from tests.importers.tiny_huggingface import write_model


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HALFBYTE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_checkpoint_stands_for_itself(tmp_path):
    directory = write_checkpoint(tmp_path / "c")
    assert resolve.resolve(str(directory)) == directory
    with pytest.raises(ArgumentError, match="a checkpoint"):
        resolve.resolve(directory, planes=8)


def test_a_file_is_converted_once(tmp_path, cache):
    path = TinyGguf().write(tmp_path / "m.gguf")
    first = resolve.resolve(path)
    written = {p: p.stat().st_mtime_ns for p in first.iterdir()}
    assert first.parent == cache / "checkpoints"
    assert resolve.resolve(str(path)) == first
    assert {p: p.stat().st_mtime_ns for p in first.iterdir()} == written


def test_planes_group_and_content_have_their_own_entries(tmp_path):
    path = TinyGguf().write(tmp_path / "m.gguf")
    entries = {resolve.resolve(path), resolve.resolve(path, 8), resolve.resolve(path, 8, 32)}
    TinyGguf(seed=1).write(path)
    entries.add(resolve.resolve(path))
    assert len(entries) == 4


def test_a_changed_weight_file_of_a_directory_is_converted_again(tmp_path):
    directory = write_model(tmp_path / "m")
    first = resolve.resolve(directory)
    os.utime(directory / "model.safetensors", ns=(1, 1))
    assert resolve.resolve(directory) != first


def test_a_failed_conversion_leaves_the_cache_empty(tmp_path, cache):
    path = TinyGguf().write(tmp_path / "m.gguf")
    with pytest.raises(ArgumentError):
        resolve.resolve(path, 8, 128)
    assert not (cache / "checkpoints").exists() or not list((cache / "checkpoints").iterdir())


def test_another_process_may_finish_first(tmp_path, monkeypatch):
    path = TinyGguf().write(tmp_path / "m.gguf")

    def other_was_faster(source, dest, planes, group, progress):
        write_checkpoint(dest)
        raise HalfbyteError("writing", got="it exists", expected="a new path", fix="none")

    monkeypatch.setattr(resolve, "convert", other_was_faster)
    assert Checkpoint.open(resolve.resolve(path)).source["kind"] == "random"


def test_dense_weights_come_from_the_source(tmp_path):
    path = TinyGguf().write(tmp_path / "m.gguf")
    assert isinstance(resolve.open_weights(path, dense=True).matrix("embed"), Dense)
    assert isinstance(resolve.open_weights(path, dense=False).matrix("embed"), Planes)
    dense = write_checkpoint(tmp_path / "dense", dense="f16")
    assert isinstance(resolve.open_weights(dense, dense=True).matrix("embed"), Dense)
    planes = write_checkpoint(tmp_path / "planes")
    with pytest.raises(ArgumentError, match="level f32"):
        resolve.open_weights(planes, dense=True)


def test_the_alias_is_eight_planes_unless_asked_otherwise(tmp_path, monkeypatch):
    path = TinyGguf().write(tmp_path / "demo.gguf")
    monkeypatch.setattr(resolve, "demo_model", lambda: path)
    eight = resolve.open_weights("smollm2-135m")
    assert eight.has_lo("layers.0.attn.q")
    assert "already 4-bit" in eight.source["note"]
    four = resolve.open_weights("smollm2-135m", planes=4)
    assert four.source["exact"] is True
    dense = resolve.open_weights("smollm2-135m", dense=True)
    np.testing.assert_array_equal(dense.vector("norm.final"), eight.vector("norm.final"))


def test_a_hub_id_is_fetched_and_converted(tmp_path, monkeypatch):
    directory = write_model(tmp_path / "snapshot")
    asked = []
    monkeypatch.setattr(resolve, "fetch_snapshot", lambda repo: asked.append(repo) or directory)
    assert resolve.open_weights("owner/name").source["kind"] == "huggingface"
    assert asked == ["owner/name"]


def test_an_existing_path_wins_over_a_hub_id(tmp_path, monkeypatch):
    directory = write_model(tmp_path / "owner" / "name")
    monkeypatch.chdir(tmp_path)
    assert resolve.locate("owner/name").resolve() == directory


def test_a_hub_without_network_is_one_clear_line(monkeypatch):
    import huggingface_hub

    def unreachable(*args, **kwargs):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(SourceError, match="no route") as caught:
        hub.fetch_snapshot("owner/name")
    assert "\n" not in str(caught.value)


def test_a_model_that_is_not_there_says_where_it_was_looked_for_and_how_to_get_one(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArgumentError, match=r"hub.*smollm2-135m") as caught:
        resolve.locate("llama3")
    assert str(tmp_path) in str(caught.value)
    TinyGguf().write(tmp_path / "model.Q4_K_M.gguf")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "big.gguf").write_bytes(b"")
    with pytest.raises(ArgumentError, match=r"did you mean model\.Q4_K_M\.gguf"):
        resolve.locate("model.Q4_K_S.gguf")
    with pytest.raises(ArgumentError, match=r"did you mean models/big\.gguf"):
        resolve.locate("models/bug.gguf")  # no hub id, though it looks like one
    assert "did you mean" not in str(caught.value)


def damage(path):
    data = bytearray(path.read_bytes())
    data[9] ^= 255
    path.write_bytes(data)


@pytest.mark.parametrize("spoil", [damage, lambda path: path.unlink()])
def test_a_damaged_checkpoint_in_the_cache_is_made_again(tmp_path, spoil):
    path = TinyGguf().write(tmp_path / "m.gguf")
    made = resolve.resolve(path)
    spoil(made / "layer-000.safetensors")
    assert resolve.resolve(path) == made
    Checkpoint.open(made)
    assert [entry.name for entry in made.parent.iterdir()] == [made.name]


def test_a_checkpoint_of_a_newer_version_in_the_cache_is_left_to_it(tmp_path):
    path = TinyGguf().write(tmp_path / "m.gguf")
    made = resolve.resolve(path)
    text = (made / "halfbyte.json").read_text().replace('"format": 4', '"format": 99')
    (made / "halfbyte.json").write_text(text)
    assert resolve.resolve(path) == made
    assert (made / "halfbyte.json").read_text() == text


def test_a_damaged_checkpoint_that_was_named_is_not_touched(tmp_path):
    directory = write_checkpoint(tmp_path / "c")
    damage(directory / "head.safetensors")
    with pytest.raises(FormatError):
        resolve.open_weights(directory)
    assert (directory / "head.safetensors").exists()


@pytest.mark.parametrize("text", ["nope", "/no/such/file.gguf", "a/b/c", "", "smollm2"])
def test_a_name_that_is_nothing_lists_what_may_be_named(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ArgumentError, SourceError), match="model"):
        resolve.resolve(text)


def test_the_cache_follows_the_environment(monkeypatch, tmp_path):
    assert cache_directory() == tmp_path / "cache"
    monkeypatch.delenv("HALFBYTE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg" / "halfbyte"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_directory() == tmp_path / ".cache" / "halfbyte"
