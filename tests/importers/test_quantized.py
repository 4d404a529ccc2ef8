"""Quantized Hugging Face models: the values their writers mean, exactly, or a reason."""

from __future__ import annotations

import copy
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfbyte.config import Level
from halfbyte.errors import FormatError, SourceError
from halfbyte.formats.checkpoint import Checkpoint
from halfbyte.formats.names import expected_matrices
from halfbyte.formats.planes import dequantize
from halfbyte.formats.tensor_file import TensorFile
from halfbyte.importers.convert import convert, open_source
from halfbyte.importers.families import hugging_face_name
from halfbyte.importers.huggingface_config import read_config
from halfbyte.importers.integer_weights import (
    IntegerWeights,
    UnfitError,
    to_planes,
    unpack_words,
)
from halfbyte.importers.packed_matrices import _as_read
from halfbyte.importers.packing import plane_group
from halfbyte.importers.quantized_config import read_packing
from halfbyte.runtime.native import NativeRuntime
from tests.importers import packed_model
from tests.importers.packed_model import SETTINGS, write
from tests.importers.tiny_huggingface import CONFIG
from tests.support.runtimes import all_logits, random_tokens

SAMPLES = sorted((Path(__file__).parent.parent / "data" / "packed").glob("*.safetensors"))
KINDS = tuple(SETTINGS)
Q = "model.layers.0.self_attn.q_proj"


def _sample(path: Path) -> tuple[IntegerWeights, Any, np.ndarray]:
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    settings = json.loads(json.loads(raw[8 : 8 + length])["__metadata__"]["settings"])
    file = TensorFile.open(path)
    reference = file.array("reference")
    packing = read_packing(path, {"quantization_config": settings})
    assert packing is not None
    arrays = {}
    for suffix, wanted in packing.tensors(*reference.shape).items():
        if suffix in file.entries:
            entry = file.entries[suffix]
            assert entry.shape == wanted.shapes[entry.dtype]
            arrays[suffix] = _as_read(file, suffix)
        else:
            assert wanted.optional
    rows, inputs = reference.shape
    return packing.read(arrays, rows, inputs, 0, rows), packing, reference


@pytest.mark.parametrize("path", SAMPLES, ids=lambda p: p.stem)
def test_values_are_those_of_the_library_that_packed_them(path: Path) -> None:
    weights, packing, reference = _sample(path)
    ours = weights.dequantize().astype(reference.dtype)  # where the library rounds to half
    np.testing.assert_array_equal(ours, reference)
    group = plane_group(packing, {reference.shape[1]})
    if "act-order" in path.stem:
        with pytest.raises(UnfitError, match="act-order"):
            to_planes(weights, group)
        return
    planes = to_planes(weights, group)
    np.testing.assert_array_equal(dequantize(planes, weights.bits), weights.dequantize())
    if "sym" in path.stem and "asym" not in path.stem and weights.bits == 4:
        assert planes.offset is None


def test_the_samples_cover_every_writer_and_convention() -> None:
    assert len(SAMPLES) == 16


@pytest.mark.parametrize("path", SAMPLES, ids=lambda p: p.stem)
def test_any_rows_are_those_of_the_whole(path: Path) -> None:
    weights, packing, reference = _sample(path)
    file = TensorFile.open(path)
    rows, inputs = reference.shape
    arrays = {s: _as_read(file, s) for s in packing.tensors(rows, inputs) if s in file.entries}
    for begin, end in ((0, 3), (3, 11), (8, 16), (15, 16)):
        part = packing.read(arrays, rows, inputs, begin, end).dequantize()
        np.testing.assert_array_equal(part, weights.dequantize()[begin:end])


@given(st.data())
def test_eight_bit_planes_hold_any_codes_exactly(data: st.DataObject) -> None:
    codes = data.draw(st.lists(st.integers(0, 255), min_size=64, max_size=64))
    zeros = data.draw(st.lists(st.integers(0, 256), min_size=2, max_size=2))
    weights = IntegerWeights(
        codes=np.array([codes], dtype=np.uint8),
        zeros=np.array([zeros], dtype=np.int16),
        scales=np.array([[0.0371, -0.5]], dtype=np.float16).astype(np.float32),
        groups=np.arange(64) // 32,
        bits=8,
    )
    np.testing.assert_array_equal(dequantize(to_planes(weights, 32), 8), weights.dequantize())


@pytest.mark.parametrize("bits", [4, 8])
def test_words_unpack_from_the_lowest_bits(bits: int) -> None:
    values = np.random.default_rng(0).integers(0, 1 << bits, (3, 32))
    np.testing.assert_array_equal(unpack_words(packed_model.words(values, bits), bits), values)


@pytest.mark.parametrize("kind", KINDS)
def test_a_packed_model_is_imported_exactly(tmp_path: Path, kind: str) -> None:
    meant = write(tmp_path / "model", kind)
    source = open_source(tmp_path / "model")
    checkpoint = Checkpoint.open(convert(source, tmp_path / "out"))
    bits = 8 if kind == "int" else 4
    assert checkpoint.source["planes"] == bits
    assert "exact, except re-quantized" in checkpoint.source["method"]
    assert "note" not in checkpoint.source
    for name, values in meant.items():
        np.testing.assert_array_equal(source.matrix(name).values, values)
        planes = checkpoint.matrix(name)
        np.testing.assert_array_equal(dequantize(planes, bits), values)
        assert (planes.lo is None) == (bits == 4)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_of_an_imported_model_are_near_those_of_its_dense_values(
    tmp_path: Path, kind: str
) -> None:
    write(tmp_path / "model", kind)
    source = open_source(tmp_path / "model")
    checkpoint = Checkpoint.open(convert(source, tmp_path / "out"))
    tokens = random_tokens(20, 96)
    dense = all_logits(NativeRuntime(source, num_tokens=64), tokens, Level.parse("f32"))
    level = Level.parse("w8a16" if kind == "int" else "w4a16")
    ours = all_logits(NativeRuntime(checkpoint, num_tokens=64), tokens, level)
    # 16-bit activations and an 8-bit embedding and head are all that is lost
    assert np.linalg.norm(ours - dense) < 0.05 * np.linalg.norm(dense)


def test_act_order_of_the_down_projection_is_folded_into_its_inputs(tmp_path: Path) -> None:
    meant = write(tmp_path / "model", "gptq", down_order=True)
    write(tmp_path / "plain", "gptq")
    source = open_source(tmp_path / "model")
    checkpoint = Checkpoint.open(convert(source, tmp_path / "out"))
    gate = "layers.0.mlp.gate"
    assert not np.array_equal(source.matrix(gate).values, meant[gate])
    order = [
        int(np.flatnonzero((meant[gate] == row).all(axis=1))[0])
        for row in source.matrix(gate).values
    ]
    assert sorted(order) == list(range(128))
    for part, axis in (("gate", 0), ("up", 0), ("down", 1)):
        wanted = np.take(meant[f"layers.0.mlp.{part}"], order, axis=axis)
        np.testing.assert_array_equal(source.matrix(f"layers.0.mlp.{part}").values, wanted)
        np.testing.assert_array_equal(
            dequantize(checkpoint.matrix(f"layers.0.mlp.{part}"), 4), wanted
        )


def test_act_order_elsewhere_is_refused_and_can_be_quantized_again(tmp_path: Path) -> None:
    index = np.random.default_rng(0).permutation(np.arange(64) // 32).astype(np.int32)
    write(tmp_path / "model", "gptq", **{f"{Q}.g_idx": ("I32", index)})
    with pytest.raises(SourceError, match=r"act-order.*--planes 8") as caught:
        convert(open_source(tmp_path / "model"), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    again = Checkpoint.open(convert(tmp_path / "model", tmp_path / "again", planes=8))
    assert again.source["exact"] is False
    assert "note" in again.source


def test_scales_that_halves_cannot_hold_are_refused(tmp_path: Path) -> None:
    scales = np.full((64, 2), 0.1, dtype=np.float32)
    write(tmp_path / "model", "pack", **{f"{Q}.weight_scale": ("F32", scales)})
    with pytest.raises(SourceError, match="half precision"):
        convert(tmp_path / "model", tmp_path / "out")


def test_eight_bits_that_do_not_fit_are_quantized_again_and_said_so(tmp_path: Path) -> None:
    scales = np.full((64, 1), 0.1, dtype=np.float32)
    meant = write(tmp_path / "model", "int", **{f"{Q}.weight_scale": ("F32", scales)})
    checkpoint = Checkpoint.open(convert(tmp_path / "model", tmp_path / "out"))
    assert (
        "re-quantized (round to nearest): embed, layers.0.attn.q, head"
        in (checkpoint.source["method"])
    )
    for name in ("k", "v"):
        exact = dequantize(checkpoint.matrix(f"layers.0.attn.{name}"), 8)
        np.testing.assert_array_equal(exact, meant[f"layers.0.attn.{name}"])
    runtime = NativeRuntime(checkpoint, num_tokens=64)  # q, k and v are one product
    assert np.isfinite(all_logits(runtime, random_tokens(4, 96), Level.parse("w8a16"))).all()


LEFT_ALONE: list[tuple[list[str] | None, bool]] = [
    (None, True),
    ([], True),
    (["lm_head"], True),
    (["model.embed_tokens", "norm"], True),
    (["v_proj"], False),
    (["model.layers.1."], False),
    (["model.layers.0.mlp", "lm_head"], False),
]


@pytest.mark.parametrize(("names", "whole"), LEFT_ALONE)
def test_modules_that_awq_left_alone_are_read_as_they_are(
    tmp_path: Path, names: list[str] | None, whole: bool
) -> None:
    settings = SETTINGS["awq"] | {"modules_to_not_convert": names}
    changes: dict[str, Any] = {}
    dense = {}
    rng = np.random.default_rng(1)
    for name, shape in expected_matrices(read_config(CONFIG, bos_id=None, eos_ids=())):
        module = hugging_face_name(name).removesuffix(".weight")
        if name.startswith("layers") and any(part in module for part in names or ()):
            dense[name] = rng.normal(size=shape).astype(np.float16)
            changes |= {f"{module}.{x}": None for x in ("qweight", "qzeros", "scales")}
            changes[f"{module}.weight"] = ("F16", dense[name])
    meant = write(tmp_path / "model", "awq", settings=settings, **changes)
    source = open_source(tmp_path / "model")
    assert source.natural == ((4, 32) if whole else None)
    assert bool(dense) is not whole
    checkpoint = Checkpoint.open(convert(source, tmp_path / "out"))
    for name, values in (meant | dense).items():
        got = dequantize(checkpoint.matrix(name), 8)
        wanted = values.astype(np.float32)
        limit = 0 if whole else 0.01 * np.linalg.norm(wanted)
        assert np.linalg.norm(got - wanted) <= limit
    NativeRuntime(checkpoint, num_tokens=64)


def test_act_order_beside_modules_left_alone_needs_no_folding(tmp_path: Path) -> None:
    gate = "model.layers.0.mlp.gate_proj"
    values = np.random.default_rng(2).normal(size=(128, 64)).astype(np.float16)
    names = ("qweight", "qzeros", "scales", "g_idx")
    changes: dict[str, Any] = {f"{gate}.{x}": None for x in names}
    changes[f"{gate}.weight"] = ("F16", values)
    meant = write(tmp_path / "model", "gptq", down_order=True, **changes)
    source = open_source(tmp_path / "model")
    np.testing.assert_array_equal(source.matrix("layers.0.mlp.gate").values, values)
    for part in ("up", "down"):
        got = source.matrix(f"layers.0.mlp.{part}").values
        np.testing.assert_array_equal(got, meant[f"layers.0.mlp.{part}"])


def test_a_packed_model_that_claims_millions_of_layers_is_refused_at_once(tmp_path: Path) -> None:
    write(tmp_path / "model", "awq")
    config = json.loads((tmp_path / "model" / "config.json").read_text(encoding="utf-8"))
    config["num_hidden_layers"] = (1 << 24) - 1
    (tmp_path / "model" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(SourceError, match="layers"):
        open_source(tmp_path / "model")


def test_zero_biases_that_some_writers_add_are_no_obstacle(tmp_path: Path) -> None:
    zeros = ("F16", np.zeros(64, dtype=np.float16))
    write(tmp_path / "model", "gptq", **{f"{Q}.bias": zeros})
    convert(tmp_path / "model", tmp_path / "out")
    ones = ("F16", np.ones(64, dtype=np.float16))
    write(tmp_path / "biased", "gptq", **{f"{Q}.bias": ones})
    with pytest.raises(SourceError, match="bias"):
        open_source(tmp_path / "biased")


def test_settings_in_a_file_of_their_own_are_found(tmp_path: Path) -> None:
    meant = write(tmp_path / "model", "gptq")
    config = json.loads((tmp_path / "model" / "config.json").read_text(encoding="utf-8"))
    settings = config.pop("quantization_config")
    del settings["quant_method"]
    (tmp_path / "model" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "model" / "quantize_config.json").write_text(json.dumps(settings), encoding="utf-8")
    source = open_source(tmp_path / "model")
    np.testing.assert_array_equal(source.matrix("layers.1.attn.k").values, meant["layers.1.attn.k"])


def _set(kind: str, *path: str, value: Any) -> tuple[str, dict[str, Any]]:
    settings = copy.deepcopy(SETTINGS[kind])
    at: Any = settings
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return kind, settings


WEIGHTS = ("config_groups", "group_0", "weights")
BAD_SETTINGS = [
    ("gptq", {"quant_method": "bitsandbytes"}),
    ("gptq", {"quant_method": ["gptq"]}),
    ("gptq", {"quant_method": None}),
    _set("gptq", "bits", value=3),
    _set("gptq", "bits", value=True),
    _set("gptq", "bits", value=4.0),
    _set("gptq", "group_size", value=0),
    _set("gptq", "group_size", value=-128),
    _set("gptq", "group_size", value="32"),
    _set("gptq", "group_size", value=1 << 40),
    _set("gptq", "checkpoint_format", value="marlin"),
    _set("gptq", "checkpoint_format", value={"a": 1}),
    _set("gptq", "dynamic", value={"-:.*": {}}),
    _set("gptq", "pack_dtype", value="int8"),
    _set("awq", "version", value="gemv"),
    _set("awq", "version", value=5),
    _set("awq", "zero_point", value=False),
    _set("awq", "modules_to_not_convert", value=["visual"]),
    _set("awq", "modules_to_not_convert", value="lm_head"),
    _set("awq", "modules_to_not_convert", value=[1]),
    _set("awq", "modules_to_not_convert", value=[""]),
    _set("awq", "modules_to_not_convert", value={"lm_head": True}),
    _set("awq", "modules_to_not_convert", value=["x"] * 5000),
    _set("pack", "config_groups", value={}),
    _set("pack", "config_groups", value={"a": 1}),
    _set("pack", "config_groups", value={str(i): {} for i in range(1000)}),
    _set("pack", "format", value="marlin-24"),
    _set("pack", "transform_config", value={"r1": {}}),
    _set("pack", "sparsity_config", value={"format": "sparse-24-bitmask"}),
    _set("pack", *WEIGHTS, value=None),
    _set("pack", *WEIGHTS, "num_bits", value=3),
    _set("pack", *WEIGHTS, "type", value="float"),
    _set("pack", *WEIGHTS, "dynamic", value=True),
    _set("pack", *WEIGHTS, "strategy", value="block"),
    _set("int", *WEIGHTS, "num_bits", value=4),
]


@pytest.mark.parametrize(("kind", "settings"), BAD_SETTINGS)
def test_settings_that_are_not_read_are_refused_in_one_line(
    tmp_path: Path, kind: str, settings: dict[str, Any]
) -> None:
    write(tmp_path / "model", kind, settings=settings)
    with pytest.raises(SourceError) as caught:
        open_source(tmp_path / "model")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


WORDS = ("I32", np.zeros((8, 64), dtype=np.int32))
BAD_TENSORS = [
    ("gptq", f"{Q}.qzeros", None),
    ("gptq", f"{Q}.qweight", ("I32", np.zeros((8, 63), dtype=np.int32))),
    ("gptq", f"{Q}.qweight", ("F32", np.zeros((8, 64), dtype=np.float32))),
    ("gptq", f"{Q}.qweight", None),
    ("gptq", f"{Q}.scales", ("F16", np.zeros((64, 2), dtype=np.float16))),
    ("gptq", f"{Q}.g_idx", ("I32", np.full(64, 2, dtype=np.int32))),
    ("gptq", f"{Q}.g_idx", ("I32", np.arange(-1, 63, dtype=np.int32))),
    ("gptq", f"{Q}.scales", ("F16", np.full((2, 64), np.nan, dtype=np.float16))),
    ("gptq", "model.layers.0.mlp.strange", WORDS),
    ("pack", f"{Q}.weight_shape", ("I64", np.array([64, 32]))),
    ("pack", f"{Q}.weight_shape", ("I64", np.array([64, -64]))),
    ("int", f"{Q}.weight_scale", ("F16", np.zeros((64, 2), dtype=np.float16))),
    ("int", f"{Q}.weight", ("F16", np.zeros((64, 64), dtype=np.float16))),
]


@pytest.mark.parametrize(("kind", "name", "tensor"), BAD_TENSORS)
def test_damaged_tensors_are_refused_in_one_line(
    tmp_path: Path, kind: str, name: str, tensor: tuple[str, np.ndarray] | None
) -> None:
    write(tmp_path / "model", kind, **{name: tensor})
    with pytest.raises((SourceError, FormatError)) as caught:
        convert(tmp_path / "model", tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
