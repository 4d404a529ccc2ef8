import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from halfbyte.config import Level
from halfbyte.errors import ArgumentError, HalfbyteError, SourceError
from halfbyte.formats.checkpoint import Checkpoint
from halfbyte.formats.names import expected_matrices, product_of
from halfbyte.formats.planes import dequantize
from halfbyte.importers import convert as convert_module
from halfbyte.importers.convert import convert, open_source
from halfbyte.runtime.native import NativeRuntime
from tests.importers.tiny_gguf import TinyGguf
from tests.importers.tiny_huggingface import CONFIG, tiny_values, write_model
from tests.support.runtimes import all_logits, random_tokens
from tests.support.tensors import vectors_of


def opened(src, dest, **options):
    return Checkpoint.open(convert(src, dest, **options))


def assert_same_values(checkpoint, source, names=None):
    for name, (rows, _) in expected_matrices(source.config):
        if names is None or name in names:
            got = dequantize(checkpoint.matrix(name), 8)
            np.testing.assert_array_equal(got, source.rows(name, 0, rows))


def relative_errors(checkpoint, source):
    for name, (rows, _) in expected_matrices(source.config):
        wanted = source.rows(name, 0, rows)
        got = dequantize(checkpoint.matrix(name), 8)
        yield name, np.linalg.norm(got - wanted) / np.linalg.norm(wanted)


@pytest.mark.parametrize("kind", [Type.Q4_0, Type.Q4_1])
@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3"])
def test_a_four_bit_file_becomes_an_exact_four_plane_checkpoint(tmp_path, arch, kind):
    source = open_source(TinyGguf(arch=arch, matrix_type=kind).write(tmp_path / "m.gguf"))
    checkpoint = opened(source, tmp_path / "c")
    assert_same_values(checkpoint, source)
    assert checkpoint.source["exact"] is True
    assert checkpoint.source["types"] == {kind.name: 14, "Q8_0": 2}
    assert checkpoint.head_bits == {4: 8, 8: 8}
    assert not checkpoint.has_lo("layers.0.attn.q")
    assert checkpoint.has_lo("embed")
    for name, _ in vectors_of(source.config):
        np.testing.assert_array_equal(checkpoint.vector(name), source.vector(name))
    assert checkpoint.config == source.config


def spoil_block(path, tensor, fields):
    """Write other scales into the first block of a matrix."""
    reader = gguf.GGUFReader(path, "r+")
    (found,) = [t for t in reader.tensors if t.name == tensor]
    raw = np.array(fields, np.float16).view(np.uint8)
    found.data.reshape(-1)[: len(raw)] = raw
    reader.data.flush()


ODD = {
    Type.Q4_1: [6e-8, 1024.5],
    Type.Q8_0: [5000.0, *[1.0] * 16],
}  # no float32 offset, no f16 scale


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("part", ["attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up", "ffn_down"])
def test_one_odd_block_leaves_a_checkpoint_that_runs(tmp_path, kind, part):
    path = TinyGguf(matrix_type=kind).write(tmp_path / "m.gguf")
    spoil_block(path, f"blk.1.{part}.weight", ODD[kind])
    source = open_source(path)
    checkpoint = opened(source, tmp_path / "c")
    odd = checkpoint.source["method"].removeprefix(
        "exact, except re-quantized (round to nearest): "
    )
    assert odd.startswith("layers.1.")
    names = {name for name, _ in expected_matrices(source.config)} - {odd}
    assert len(names) == 15
    assert_same_values(checkpoint, source, names)
    for name in names | {odd}:
        firsts = checkpoint.matrix(product_of(name)[0])
        assert (checkpoint.matrix(name).unit is None) == (firsts.unit is None)
    level = Level.parse("w4a16" if kind == Type.Q4_1 else "w8a16")
    runtime = NativeRuntime(checkpoint, num_tokens=64)
    assert np.isfinite(all_logits(runtime, random_tokens(8, 288), level)).all()


def test_a_checkpoint_that_does_not_open_is_never_published(tmp_path, monkeypatch):
    """Parts of a product with scales of two kinds: nothing could run it."""

    def other_scales(self, name, scales):
        return right(self, name, "f16" if name.endswith("attn.k") else scales)

    right = convert_module._Job._requantize
    monkeypatch.setattr(convert_module._Job, "_requantize", other_scales)
    with pytest.raises(HalfbyteError, match=r"layers\.0\.attn\.k.*opens"):
        convert(write_model(tmp_path / "m"), tmp_path / "c")
    assert [entry.name for entry in tmp_path.iterdir()] == ["m"]


def test_an_embedding_off_the_grid_is_requantized_and_said_so(tmp_path):
    path = TinyGguf(tied=True, outer_type=Type.F16).write(tmp_path / "m.gguf")
    source = open_source(path)
    checkpoint = opened(path, tmp_path / "c")
    layers = {name for name, _ in expected_matrices(source.config)} - {"embed"}
    assert_same_values(checkpoint, source, layers)
    assert checkpoint.source["exact"] is False
    assert checkpoint.source["method"] == "exact, except re-quantized (round to nearest): embed"
    assert checkpoint.has_lo("embed")


def test_eight_planes_of_a_four_bit_file_leave_its_grid_in_every_matrix(tmp_path):
    source = open_source(TinyGguf().write(tmp_path / "m.gguf"))
    checkpoint = opened(source, tmp_path / "c", planes=8)
    for name, _ in expected_matrices(source.config):
        planes = checkpoint.matrix(name)
        assert planes.scale.dtype == np.int8
        assert len(np.unique(planes.lo)) > 16  # not the empty plane of an aligned import
    assert all(error < 0.01 for _, error in relative_errors(checkpoint, source))
    assert checkpoint.head_bits == {4: 4, 8: 8}
    assert "already 4-bit" in checkpoint.source["note"]


def test_a_q8_0_file_becomes_an_exact_eight_plane_checkpoint(tmp_path):
    source = open_source(TinyGguf(matrix_type=Type.Q8_0).write(tmp_path / "m.gguf"))
    for planes in (None, 8):
        checkpoint = opened(source, tmp_path / f"c{planes}", planes=planes)
        assert_same_values(checkpoint, source)
        assert checkpoint.source["exact"] is True
        assert checkpoint.head_bits == {4: 4, 8: 8}


@pytest.mark.parametrize("kind", [Type.F16, Type.Q5_0])
def test_other_files_become_eight_planes(tmp_path, kind):
    source = open_source(TinyGguf(matrix_type=kind).write(tmp_path / "m.gguf"))
    checkpoint = opened(source, tmp_path / "c")
    assert all(error < 0.01 for _, error in relative_errors(checkpoint, source))
    assert checkpoint.source["method"] == "re-quantized (round to nearest)"


def test_four_planes_of_any_file_keep_eight_for_embedding_and_head(tmp_path):
    source = open_source(write_model(tmp_path / "m"))
    checkpoint = opened(source, tmp_path / "c", planes=4, group=64)
    errors = dict(relative_errors(checkpoint, source))
    assert errors.pop("embed") < 0.01
    assert errors.pop("head") < 0.01
    assert all(error < 0.13 for error in errors.values())
    assert not checkpoint.has_lo("layers.0.attn.q")
    assert checkpoint.head_bits == {4: 8, 8: 8}
    assert checkpoint.group_size == 64


def test_tokenizer_and_template_travel_along(tmp_path):
    source = open_source(TinyGguf().write(tmp_path / "m.gguf"))
    checkpoint = opened(source, tmp_path / "c")
    assert checkpoint.tokenizer_json == source.tokenizer_json
    assert checkpoint.tokenizer_info == source.tokenizer_info
    assert checkpoint.chat_template == "{{ messages }}"


def test_progress_counts_every_weight_once(tmp_path):
    seen = []
    convert(write_model(tmp_path / "m"), tmp_path / "c", progress=lambda *step: seen.append(step))
    done = [step[1] for step in seen]
    assert done[0] == 0
    assert done == sorted(done)
    assert seen[-1] == ("done", seen[0][2], seen[0][2])


def test_a_group_that_fits_no_exact_import_is_explained(tmp_path):
    path = TinyGguf().write(tmp_path / "m.gguf")
    with pytest.raises(ArgumentError, match="exact import"):
        convert(path, tmp_path / "c", group=64)
    # 96 inputs of `down` are no multiple of 64; 32 fits
    with pytest.raises(ArgumentError, match=r"layers\.0\.mlp\.down.*use --group 32"):
        convert(path, tmp_path / "c", planes=8, group=64)
    with pytest.raises(ArgumentError, match="32, 64 or 128"):
        convert(path, tmp_path / "c", group=16)
    with pytest.raises(ArgumentError, match="4 or 8"):
        convert(path, tmp_path / "c", planes=5)
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.gguf"]


def test_a_model_whose_sizes_fit_no_group_is_refused(tmp_path):
    config = {**CONFIG, "hidden_size": 80, "head_dim": 16}
    with pytest.raises(ArgumentError, match="fit no group"):
        convert(write_model(tmp_path / "m", config), tmp_path / "c")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight"])
def test_weights_that_are_not_finite_leave_no_checkpoint(tmp_path, name, bad):
    values = tiny_values(CONFIG)
    values[name].flat[5] = bad
    write_model(tmp_path / "m", values=values)
    with pytest.raises(HalfbyteError, match="NaN or infinity") as caught:
        convert(tmp_path / "m", tmp_path / "c")
    assert name.split(".")[-2].removesuffix("_proj") in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["m"]


def test_an_interrupt_leaves_no_checkpoint(tmp_path):
    def stop(name, done, total):
        if name.startswith("layers.1"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(write_model(tmp_path / "m"), tmp_path / "c", progress=stop)
    assert [entry.name for entry in tmp_path.iterdir()] == ["m"]


def test_an_existing_destination_is_refused(tmp_path):
    (tmp_path / "c").mkdir()
    with pytest.raises(ArgumentError, match="exists"):
        convert(write_model(tmp_path / "m"), tmp_path / "c")


@pytest.mark.parametrize(
    "make", [lambda p: p.mkdir(), lambda p: p.write_bytes(b"text"), lambda p: None]
)
def test_things_that_are_no_model_are_refused(tmp_path, make):
    make(tmp_path / "thing")
    with pytest.raises(SourceError):
        convert(tmp_path / "thing", tmp_path / "c")


def test_no_path_of_this_machine_is_written_into_a_checkpoint(tmp_path):
    convert(write_model(tmp_path / "m"), tmp_path / "c")
    text = Path(tmp_path / "c" / "halfbyte.json").read_text()
    assert str(tmp_path) not in text
    assert json.loads(text)["source"]["name"] == "m"
