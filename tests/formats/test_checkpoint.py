import json
import mmap
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from halfbyte.config import RopeConfig
from halfbyte.errors import ArgumentError, FormatError, HalfbyteError
from halfbyte.formats.checkpoint import Checkpoint
from halfbyte.formats.manifest import MANIFEST_NAME
from halfbyte.formats.names import expected_matrices, expected_tensors
from halfbyte.formats.tensor_file import write_tensor_file
from halfbyte.formats.writer import CheckpointWriter
from tests.formats.tiny import CONFIG, random_dense, random_planes, write_checkpoint
from tests.support.tensors import vectors_of


def test_what_was_written_is_read_back_bit_for_bit(tmp_path):
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path / "c"))
    rng = np.random.default_rng(0)
    wanted = random_planes(rng, (64, 64))  # `embed` is drawn first
    got = checkpoint.matrix("embed")
    np.testing.assert_array_equal(got.hi, wanted.hi)
    np.testing.assert_array_equal(got.lo, wanted.lo)
    np.testing.assert_array_equal(got.scale, wanted.scale)
    assert got.offset is None
    assert checkpoint.matrix("layers.1.mlp.gate").lo is None
    assert checkpoint.matrix("layers.1.mlp.down").offset.shape == (64, 3)
    assert checkpoint.config == CONFIG
    assert checkpoint.head_bits == {4: 4, 8: 8}
    assert checkpoint.chat_template == "{{ messages }}"
    assert checkpoint.tokenizer_path is None
    assert checkpoint.num_bytes == sum(
        os.path.getsize(checkpoint.path / f) for f in checkpoint.files
    )


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16"])
def test_dense_checkpoints_keep_their_dtype(tmp_path, kind):
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path / "c", dense=kind))
    wanted = random_dense(np.random.default_rng(0), (64, 64), kind)
    got = checkpoint.matrix("embed")
    assert (checkpoint.weights, got.dtype, got.values.dtype) == ("dense", kind, wanted.values.dtype)
    np.testing.assert_array_equal(got.values, wanted.values)


@pytest.mark.parametrize(
    "config",
    [
        replace(CONFIG, family="qwen2", tied_head=True).with_attention(bias=True),
        replace(CONFIG, family="qwen3").with_attention(
            qk_norm="head", rope=RopeConfig(kind="linear", factor=2.0)
        ),
        replace(CONFIG, family="mistral", bos_id=1).with_attention(window=16),
        CONFIG.with_attention(rope=RopeConfig(frequency_factors=(1.0,) * 7 + (8.0,))),
    ],
)
def test_every_family_has_exactly_its_tensors(tmp_path, config):
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path / "c", config))
    assert checkpoint.config == config
    for name, shape in expected_matrices(config):
        planes = checkpoint.matrix(name)
        assert (planes.hi.shape[0], planes.hi.shape[1] * 2) == shape
    for name, length in vectors_of(config):
        assert checkpoint.vector(name).shape == (length,)


def test_the_safetensors_library_reads_our_files(tmp_path):
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path / "c"))
    theirs = load_file(checkpoint.path / "layer-000.safetensors")
    np.testing.assert_array_equal(
        theirs["layers.0.attn.q.hi"], checkpoint.matrix("layers.0.attn.q").hi
    )
    np.testing.assert_array_equal(
        theirs["layers.0.norm.mlp"], checkpoint.vector("layers.0.norm.mlp")
    )


def test_tensors_are_mapped_not_read(tmp_path):
    planes = Checkpoint.open(write_checkpoint(tmp_path / "c")).matrix("embed")
    assert isinstance(_owner(planes.hi), mmap.mmap)
    assert not planes.hi.flags.writeable


def test_what_was_unloaded_is_still_there(tmp_path):
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path / "c"))
    planes = checkpoint.matrix("embed")
    before = planes.hi.copy()
    checkpoint.unload()
    np.testing.assert_array_equal(planes.hi, before)
    np.testing.assert_array_equal(checkpoint.matrix("embed").hi, before)


def _owner(array):
    """The object whose memory a view shows."""
    while isinstance(array, np.ndarray | memoryview):
        array = array.obj if isinstance(array, memoryview) else array.base
    return array


def test_an_unknown_tensor_is_named(tmp_path):
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path / "c"))
    with pytest.raises(ArgumentError, match=r"layers\.9\.attn\.q\.hi"):
        checkpoint.matrix("layers.9.attn.q")


def edit_manifest(directory, **changes):
    path = directory / MANIFEST_NAME
    values = json.loads(path.read_text())
    for key, value in changes.items():
        if value is ...:
            del values[key]
        else:
            values[key] = value
    path.write_text(json.dumps(values))


def edit_model(directory, **changes):
    model = json.loads((directory / MANIFEST_NAME).read_text())["model"]
    edit_manifest(directory, model={**model, **changes})


def rotate_down(directory, **rotation):
    edit_manifest(directory, format=2, transforms={"mlp.down": rotation})


def edit_tensors(directory, file, change):
    """Rewrite a file with `change` applied to its name -> (dtype, array), sizes kept true."""
    names = {np.uint8: "U8", np.int8: "I8", np.int32: "I32", np.float16: "F16", np.float32: "F32"}
    tensors = {k: (names[v.dtype.type], v) for k, v in load_file(directory / file).items()}
    change(tensors)
    files = json.loads((directory / MANIFEST_NAME).read_text())["files"]
    files[file] = write_tensor_file(directory / file, tensors)
    edit_manifest(directory, files=files)


def put(name, dtype, array):
    return lambda directory: edit_tensors(
        directory, "norm.safetensors", lambda tensors: tensors.update({name: (dtype, array)})
    )


def truncate(file, size):
    def change(directory):
        os.truncate(directory / file, size)
        files = json.loads((directory / MANIFEST_NAME).read_text())["files"]
        edit_manifest(directory, files={**files, file: size})

    return change


def overwrite(file, begin, data):
    def change(directory):
        with (directory / file).open("r+b") as out:
            out.seek(begin)
            out.write(data)

    return change


def edit_header(file, old, new):
    def change(directory):
        data = (directory / file).read_bytes()
        assert old in data
        assert len(old) == len(new)
        (directory / file).write_bytes(data.replace(old, new, 1))

    return change


def swap_dtype(tensors):
    tensors["norm.final"] = ("F16", tensors["norm.final"][1].astype(np.float16))


def drop_final_norm(tensors):
    del tensors["norm.final"]
    tensors["spare"] = ("F32", np.zeros(1, np.float32))


NUMBERS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_layers",
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "max_context",
    "norm_eps",
)
FLAGS = ("tied_head", "qkv_bias", "qk_norm")
ROPE_NUMBERS = ("base", "factor", "low_freq_factor", "high_freq_factor", "original_context")
NO_NUMBERS = (None, "64", [64], {}, True, -1, 0, float("nan"), float("inf"), 1 << 200, 10**4000)
LLAMA3 = {"kind": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def spoil_model(name, value):
    return lambda directory: edit_model(directory, **{name: value})


def spoil_rope(name, value):
    return lambda directory: edit_model(directory, rope={name: value})


def spoil_tokenizer(name, value):
    return lambda directory: edit_manifest(directory, tokenizer={name: value})


FAULTS = [
    ("no-manifest", lambda d: (d / MANIFEST_NAME).unlink()),
    ("bad-json", lambda d: (d / MANIFEST_NAME).write_text("{")),
    ("bad-json", lambda d: (d / MANIFEST_NAME).write_text("[1]")),
    ("bad-json", lambda d: (d / MANIFEST_NAME).write_text("[" * 200_000)),
    ("bad-json", lambda d: (d / MANIFEST_NAME).write_bytes(b"\xff\xfe\x00{}")),
    ("bad-json", lambda d: (d / MANIFEST_NAME).write_bytes(b" " * ((4 << 20) + 1))),
    ("bad-version", lambda d: edit_manifest(d, format=6)),
    ("bad-version", lambda d: edit_manifest(d, format=True)),
    ("bad-version", lambda d: edit_manifest(d, format=...)),
    ("unknown-key", lambda d: edit_manifest(d, wieghts="planes")),
    ("unknown-key", lambda d: edit_manifest(d, wide_groups=1)),  # version 1 has none
    ("bad-field", lambda d: edit_manifest(d, format=2, wide_groups=3)),
    ("bad-field", lambda d: edit_manifest(d, format=2, wide_groups=True)),
    ("bad-field", lambda d: edit_manifest(d, format=2, wide_groups={})),
    ("bad-field", lambda d: edit_manifest(d, format=3, wide_groups=1)),
    ("bad-field", lambda d: edit_manifest(d, format=3, wide_groups={"head": 1})),
    ("bad-field", lambda d: edit_manifest(d, format=3, wide_groups={"attn.o": 3})),
    ("bad-field", lambda d: edit_manifest(d, format=3, wide_groups={"attn.o": True})),
    ("bad-field", lambda d: edit_manifest(d, format=2, transforms=[])),
    ("bad-transform", lambda d: edit_manifest(d, format=2, transforms={"head": "gather"})),
    ("bad-transform", lambda d: edit_manifest(d, format=2, transforms={"attn.o": "scatter"})),
    ("bad-transform", lambda d: rotate_down(d, core=3, kind="dct", block=32, size=1)),
    ("bad-transform", lambda d: rotate_down(d, core=3, kind="dct", block=64, stride=1)),
    ("bad-transform", lambda d: rotate_down(d, core=3, kind="sylvester", block=32, stride=1)),
    ("bad-transform", lambda d: rotate_down(d, core=1, kind="sylvester", block=8, stride=1)),
    ("bad-transform", lambda d: rotate_down(d, core=1, kind="sylvester", block=48, stride=1)),
    ("bad-transform", lambda d: rotate_down(d, core=2.0, kind="sylvester", block=16, stride=1)),
    ("bad-transform", lambda d: rotate_down(d, core=1 << 40, kind="dct", block=16, stride=1)),
    ("missing-tensor", lambda d: edit_manifest(d, format=2, transforms={"attn.qkv": "gather"})),
    ("missing-tensor", lambda d: edit_manifest(d, format=2, wide_groups=1)),  # gate has no lo
    ("missing-tensor", lambda d: edit_manifest(d, format=3, wide_groups={"mlp.gate_up": 1})),
    ("unexpected-tensor", put("layers.0.attn.o.gather", "I32", np.arange(64, dtype=np.int32))),
    ("bad-field", lambda d: edit_manifest(d, weights="nibbles")),
    ("bad-field", lambda d: edit_manifest(d, weights=["planes"])),
    ("bad-field", lambda d: edit_manifest(d, group_size=48)),
    ("bad-field", lambda d: edit_manifest(d, weights="dense")),
    ("bad-field", lambda d: edit_manifest(d, head_bits={"4": 4})),
    ("bad-field", lambda d: edit_manifest(d, head_bits={"4": 4, "8": 16})),
    ("bad-field", lambda d: edit_manifest(d, source="web")),
    ("bad-field", lambda d: edit_manifest(d, tokenizer=[])),
    ("bad-field", lambda d: edit_manifest(d, files={})),
    ("bad-field", lambda d: edit_manifest(d, files={"embed.safetensors": -1})),
    ("bad-file-name", lambda d: edit_manifest(d, files={"../x.safetensors": 1})),
    ("bad-file-name", lambda d: edit_manifest(d, files={"a\\x.safetensors": 1})),
    ("bad-file-name", lambda d: edit_manifest(d, files={"x.bin": 1})),
    ("bad-model", lambda d: edit_manifest(d, model=...)),
    ("bad-model", lambda d: edit_model(d, family="gpt5")),
    ("bad-model", lambda d: edit_model(d, hiden_size=3)),
    ("bad-model", lambda d: edit_model(d, num_layers=-1)),
    ("bad-model", lambda d: edit_model(d, num_layers="2")),
    ("bad-model", lambda d: edit_model(d, tied_head="no")),
    ("bad-model", lambda d: edit_model(d, eos_ids=3)),
    ("bad-model", lambda d: edit_model(d, eos_ids=[64])),
    ("bad-model", lambda d: edit_model(d, bos_id=-1)),
    ("bad-model", lambda d: edit_model(d, sliding_window=0)),
    ("bad-model", lambda d: edit_model(d, norm_eps="1e-5")),
    ("bad-model", lambda d: edit_model(d, rope={"base": "x"})),
    *[("bad-model", spoil_model(name, value)) for name in NUMBERS for value in NO_NUMBERS],
    *[("bad-model", spoil_rope(name, value)) for name in ROPE_NUMBERS for value in NO_NUMBERS],
    *[("bad-model", spoil_model(name, value)) for name in FLAGS for value in (0, "x", None, [])],
    ("bad-model", spoil_model("sliding_window", 1 << 31)),
    ("bad-model", spoil_model("sliding_window", "64")),
    ("bad-model", spoil_model("sliding_window", 64.0)),
    ("bad-model", spoil_model("eos_ids", [1.0])),
    ("bad-model", spoil_model("eos_ids", [True])),
    ("bad-model", spoil_model("bos_id", 1 << 70)),
    ("bad-model", spoil_model("norm_eps", 2.0)),
    ("bad-model", spoil_model("norm_eps", 1e-300)),
    ("bad-model", spoil_rope("kind", ["llama3"])),
    ("bad-model", spoil_rope("base", 1e300)),
    ("bad-model", spoil_rope("base", 1e-20)),
    ("bad-model", lambda d: edit_model(d, rope={"kind": "linear", "factor": 1e-29})),
    ("bad-model", lambda d: edit_model(d, rope=LLAMA3 | {"high_freq_factor": 1.0})),
    ("bad-model", lambda d: edit_model(d, rope=LLAMA3 | {"original_context": 1 << 31})),
    ("bad-model", spoil_rope("frequency_factors", [1.0] * 7 + ["x"])),
    ("bad-model", spoil_rope("frequency_factors", [1.0] * 7 + [float("nan")])),
    ("bad-model", spoil_rope("frequency_factors", [1e-30] * 8)),
    ("bad-model", spoil_rope("frequency_factors", {"a": 1})),
    ("bad-field", spoil_tokenizer("bos", "1")),
    ("bad-field", spoil_tokenizer("bos", -1)),
    ("bad-field", spoil_tokenizer("bos", 1 << 31)),
    ("bad-field", spoil_tokenizer("add_bos", "yes")),
    ("bad-field", spoil_tokenizer("add_bos", 1)),
    ("bad-field", spoil_tokenizer("eos_ids", 2)),
    ("bad-field", spoil_tokenizer("eos_ids", [2.0])),
    ("bad-field", spoil_tokenizer("eos_ids", [None])),
    ("bad-field", spoil_tokenizer("bos_token", 5)),
    ("bad-field", spoil_tokenizer("eos_token", ["</s>"])),
    ("bad-json", lambda d: edit_manifest(d, source={"name": "\ud83d"})),
    ("bad-json", lambda d: edit_manifest(d, source={"\udc00": 1})),
    ("bad-model", lambda d: edit_model(d, rope={"frequency_factors": [1.0]})),
    ("missing-file", lambda d: (d / "head.safetensors").unlink()),
    ("wrong-size", lambda d: os.truncate(d / "head.safetensors", 100)),
    ("truncated", truncate("head.safetensors", 4)),
    ("truncated", truncate("head.safetensors", 20)),
    ("truncated", truncate("head.safetensors", 4000)),
    ("header-too-large", overwrite("head.safetensors", 0, b"\xff" * 8)),
    ("bad-header", overwrite("head.safetensors", 8, b"x")),
    ("bad-entry", edit_header("head.safetensors", b'"data_offsets":[0,', b'"data_offsets":[8,')),
    ("bad-entry", edit_header("head.safetensors", b'"dtype":"U8"', b'"dtype":"U9"')),
    ("bad-entry", edit_header("head.safetensors", b'"shape":[64,32]', b'"shape":[64,33]')),
    ("missing-tensor", lambda d: edit_model(d, num_layers=3)),
    ("missing-tensor", lambda d: edit_model(d, num_layers=(1 << 24) - 1)),
    ("missing-tensor", lambda d: edit_tensors(d, "norm.safetensors", drop_final_norm)),
    ("unexpected-tensor", lambda d: edit_model(d, num_layers=1)),
    ("unexpected-tensor", put("layers.0.attn.z.hi", "U8", np.zeros((2, 2), np.uint8))),
    ("duplicate-tensor", put("embed.hi", "U8", np.zeros((64, 32), np.uint8))),
    ("wrong-dtype", lambda d: edit_tensors(d, "norm.safetensors", swap_dtype)),
    ("wrong-shape", lambda d: edit_model(d, vocab_size=65)),
    ("wrong-shape", lambda d: edit_manifest(d, group_size=64)),
    ("bad-group", lambda d: edit_manifest(d, group_size=128)),
]


@pytest.mark.parametrize(("name", "break_it"), FAULTS)
def test_each_fault_has_its_name_and_one_line(tmp_path, name, break_it):
    directory = write_checkpoint(tmp_path / "c")
    break_it(directory)
    with pytest.raises(FormatError) as caught:
        Checkpoint.open(directory)
    assert caught.value.name == name
    assert "\n" not in str(caught.value)


def test_a_scale_that_is_not_finite_is_refused(tmp_path):
    directory = write_checkpoint(tmp_path / "c")

    def change(tensors):
        tensors["embed.scale"][1][3, 1] = np.nan

    edit_tensors(directory, "embed.safetensors", change)
    with pytest.raises(FormatError, match=r"not-finite: embed\.scale"):
        Checkpoint.open(directory).matrix("embed")


def test_chat_template_that_is_not_text_is_refused(tmp_path):
    directory = write_checkpoint(tmp_path / "c")
    (directory / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(FormatError, match="bad-text"):
        _ = Checkpoint.open(directory).chat_template


def test_documentation_names_exactly_the_faults_there_are():
    root = Path(__file__).parents[2]
    text = (root / "docs" / "format.md").read_text()
    documented = set(re.findall(r"^\| `([a-z-]+)` \|", text, flags=re.MULTILINE))
    tested = {name for name, _ in FAULTS} | {"not-finite", "bad-gather", "bad-text"}
    assert documented == tested


def fail_on_the_way(dest):
    with CheckpointWriter(dest) as writer:
        writer.add_vector("layers.0.norm.attn", np.ones(4, np.float32))
        writer.add_vector("layers.1.norm.attn", np.ones(4, np.float32))
        assert len(list(dest.parent.iterdir())) == 1
        raise RuntimeError("on the way")


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="on the way"):
        fail_on_the_way(tmp_path / "deep" / "c")
    assert list((tmp_path / "deep").iterdir()) == []


def test_an_existing_destination_is_never_touched(tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "mine.txt").write_text("keep")
    with pytest.raises(ArgumentError, match="exists"):
        write_checkpoint(tmp_path / "c")
    assert (tmp_path / "c" / "mine.txt").read_text() == "keep"


def test_a_file_that_was_written_is_not_written_again(tmp_path):
    with CheckpointWriter(tmp_path / "c") as writer:
        writer.add_vector("norm.final", np.ones(4, np.float32))
        writer.add_vector("layers.0.norm.attn", np.ones(4, np.float32))
        with pytest.raises(ValueError, match=r"norm\.final"):
            writer.add_vector("norm.final", np.ones(4, np.float32))


def test_an_unwritable_destination_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HalfbyteError, match="writable"):
        write_checkpoint(tmp_path / "file" / "c")


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from halfbyte.formats.writer import CheckpointWriter
with CheckpointWriter(Path(sys.argv[1])) as writer:
    writer.add_vector("layers.0.norm.attn", np.ones(4, np.float32))
    writer.add_vector("layers.1.norm.attn", np.ones(4, np.float32))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_write_leaves_no_checkpoint_and_the_next_one_cleans_up(tmp_path):
    dest = tmp_path / "c"
    subprocess.run([sys.executable, "-c", KILLED, str(dest)], check=False, env=_environment())
    assert not dest.exists()
    assert len(list(tmp_path.iterdir())) == 1  # the part that was written, aside
    write_checkpoint(dest)
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def _environment():
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def test_files_that_were_kept_are_taken_up_with_what_their_inputs_need(tmp_path):
    from halfbyte.formats.transforms import Rotation

    small = replace(CONFIG, num_layers=1)
    rotation = Rotation(core=1, kind="sylvester", block=32)

    def add(writer, wanted):
        rng = np.random.default_rng(0)
        for name, shape in expected_tensors(small):
            if not wanted(name):
                continue
            if len(shape) == 1:
                writer.add_vector(name, np.ones(shape, np.float32))
            else:
                down = name.endswith("down")
                planes = random_planes(rng, shape)
                writer.add_matrix(name, replace(planes, transform=rotation) if down else planes)

    with CheckpointWriter(tmp_path / "out", keep_in=tmp_path / "kept") as writer:
        add(writer, lambda name: name.startswith("layers."))
    assert not (tmp_path / "out").exists()
    with CheckpointWriter(tmp_path / "out", keep_in=tmp_path / "kept") as writer:
        assert not writer.has("layers.0.mlp.down")  # never flushed
        add(writer, lambda name: name.startswith("layers."))
        writer.flush()
    with CheckpointWriter(tmp_path / "out", keep_in=tmp_path / "kept") as writer:
        assert writer.has("layers.0.mlp.down")
        assert not writer.has("layers.1.mlp.down")
        add(writer, lambda name: not writer.has(name))
        writer.finish(small, group_size=32, head_bits={4: 4, 8: 8}, source={})
    manifest = json.loads((tmp_path / "out" / "halfbyte.json").read_text())
    assert list(manifest["files"]) == [
        "embed.safetensors",
        "head.safetensors",
        "layer-000.safetensors",
        "norm.safetensors",
    ]
    assert set(manifest["transforms"]) == {"mlp.down"}
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(
        [*manifest["files"], "halfbyte.json"]
    )
