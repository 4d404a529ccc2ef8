"""Every family from a Hugging Face folder and from GGUF names, in the twin against transformers.

Tolerance: ‖out - ref‖ / ‖ref‖ <= 1e-5 over all rows at `f32` with f32 KV pages: what is left is
the order of float32 sums.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from halfbyte.config import Level
from halfbyte.errors import ModelError, SourceError
from halfbyte.formats.checkpoint import Checkpoint
from halfbyte.formats.names import expected_tensors
from halfbyte.formats.planes import dequantize
from halfbyte.importers.convert import convert
from halfbyte.importers.gguf_source import GgufSource
from halfbyte.importers.huggingface import HuggingFaceSource
from tests.importers.gguf_of_family import write_gguf
from tests.importers.tiny_families import MODELS, VOCAB, logits_of, written
from tests.support.runtimes import (
    NATIVE_KINDS,
    all_logits,
    build,
    random_tokens,
    relative_error,
)

F32 = Level.parse("f32")
TOKENS = random_tokens(80, VOCAB)  # past windows of 16 and 24 and original contexts of 64


# Families with parts that the native core does not run yet.
REFERENCE_ONLY = ("gemma4-small", "gemma4-tied", "gemma4-experts")


@pytest.mark.parametrize("name", MODELS)
def test_f32_logits_equal_transformers(tmp_path: Path, name: str) -> None:
    directory, model = written(name, tmp_path / "model")
    source, expected = HuggingFaceSource(directory), logits_of(model, TOKENS)
    for kind in ("reference", *NATIVE_KINDS):
        if kind != "reference" and name in REFERENCE_ONLY:
            with pytest.raises(ModelError, match=r'layers of gemma4.*backend="reference"'):
                build(kind, source)
            continue
        logits = all_logits(build(kind, source, kv_dtype="f32"), TOKENS, F32)
        assert relative_error(logits, expected) <= 1e-5, kind


GGUF = [name for name in MODELS if MODELS[name][0] not in ("Llama", "Mistral", "Qwen2", "Qwen3")]
# What such a file does not say: it is taken from the largest model, or is the one there is.
UNSAID = ("qwen3_moe-plain-shares", "gemma2-scaled", "gemma3-scaled")
NO_GGUF = ("gemma4-small", "gemma4-tied", "gemma4-experts")


@pytest.mark.parametrize("name", [name for name in GGUF if name not in UNSAID + NO_GGUF])
def test_a_gguf_file_has_the_same_model(tmp_path: Path, name: str) -> None:
    directory, _ = written(name, tmp_path / "model")
    theirs = HuggingFaceSource(directory)
    ours = GgufSource(write_gguf(directory, tmp_path / "m.gguf"))
    assert ours.config == replace(theirs.config, bos_id=None, eos_ids=())
    for tensor, shape in expected_tensors(ours.config):
        if len(shape) == 1:
            assert np.array_equal(ours.vector(tensor), theirs.vector(tensor)), tensor
        else:
            rows = ours.rows(tensor, 0, shape[0])
            assert np.array_equal(rows, theirs.rows(tensor, 0, shape[0])), tensor
            middle = shape[0] // 3
            assert np.array_equal(ours.rows(tensor, middle, middle + 5), rows[middle : middle + 5])
            assert np.array_equal(
                theirs.rows(tensor, middle, middle + 5), rows[middle : middle + 5]
            )


@pytest.mark.parametrize("name", ["qwen3_moe", "gpt_oss", "gemma3", "phi3-long", "olmo2"])
def test_planes_of_a_family_are_near_its_floats(tmp_path: Path, name: str) -> None:
    directory, _ = written(name, tmp_path / "model")
    source = HuggingFaceSource(directory)
    checkpoint = Checkpoint.open(convert(source, tmp_path / "planes"))
    assert (checkpoint.config, checkpoint.manifest.version) == (source.config, 5)
    exact = all_logits(build("reference", source), TOKENS[:20], F32)
    runtime = build("reference", checkpoint)
    errors = []
    for level in ("w8a16", "w4a8"):
        logits = all_logits(runtime, TOKENS[:20], Level.parse(level))
        rows = [relative_error(*pair) for pair in zip(logits, exact, strict=True)]
        errors.append(np.median(rows))  # of a few rows other experts are chosen
    assert errors[0] < 0.1
    assert errors[0] < errors[1] / 4


@pytest.mark.parametrize("name", ["gemma3", "ministral3"])
def test_a_language_model_is_read_out_of_a_larger_one(tmp_path: Path, name: str) -> None:
    directory, _ = written(name, tmp_path / "model")
    alone = HuggingFaceSource(directory)
    values = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(
        json.dumps({"model_type": name, "text_config": values, "vision_config": {}})
    )
    tensors = load_file(directory / "model.safetensors")
    named = {f"language_model.{n}": values for n, values in tensors.items()}
    save_file(named | {"vision_tower.x": np.ones(3, np.float32)}, directory / "model.safetensors")
    inside = HuggingFaceSource(directory)
    assert inside.config == alone.config
    assert np.array_equal(inside.rows("embed", 0, 9), alone.rows("embed", 0, 9))


BROKEN: dict[str, tuple[str, dict[str, object], str]] = {
    "window": ("gemma3", {"layer_types": ["chunked_attention"] * 7}, "layer_types"),
    "layers": ("gemma3", {"layer_types": ["full_attention"] * 3}, "layer_types"),
    "experts": ("qwen3_moe", {"num_local_experts": 1}, "experts a token"),
    "dense-layers": ("qwen3_moe", {"mlp_only_layers": [1]}, "mlp_only_layers"),
    "activation": ("smollm3", {"hidden_act": "relu"}, "hidden_act"),
    "scaling": ("granite", {"logits_scaling": 0.0}, "logits_scaling"),
    "rope": ("phi3-long", {"rope_parameters": {"rope_type": "ntk"}}, "rope_scaling type"),
    "factors": ("phi3-long", {"rope_parameters": {"rope_type": "longrope"}}, "factor"),
    "rotary": ("glm4", {"rope_parameters": {"partial_rotary_factor": 1.5}}, "partial_rotary"),
    "unknown": ("olmo2", {"model_type": "olmo9"}, "model_type.*olmo9"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_a_family_cannot_have_is_named_in_one_line(tmp_path: Path, what: str) -> None:
    name, changes, expected = BROKEN[what]
    directory, _ = written(name, tmp_path / "model")
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises((SourceError, ModelError), match=expected) as caught:
        HuggingFaceSource(directory)
    assert "\n" not in str(caught.value)


def test_published_experts_of_gpt_oss_are_read_and_imported_exactly(tmp_path: Path) -> None:
    """Blocks of MXFP4 in place of experts: values by the standard's table, all in planes."""
    directory, _ = written("gpt_oss", tmp_path / "model")
    tensors, rng = load_file(directory / "model.safetensors"), np.random.default_rng(0)
    table = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
    table = np.concatenate([table, -table])
    wanted = {}
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
        count, inputs, rows = tensors.pop(name).shape
        blocks = rng.integers(0, 256, (count, rows, inputs // 32, 16), dtype=np.uint8)
        scales = rng.integers(118, 124, (count, rows, inputs // 32), dtype=np.uint8)
        tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        values = np.stack([table[blocks & 15], table[blocks >> 4]], axis=-1)
        sized = (
            values.reshape(count, rows, -1, 32)
            * np.exp2(scales.astype(np.float32) - 127)[..., None]
        )
        wanted[name] = sized.reshape(count, rows, inputs)
    save_file(tensors, directory / "model.safetensors")
    values = json.loads((directory / "config.json").read_text())
    values["quantization_config"] = {"quant_method": "mxfp4"}
    (directory / "config.json").write_text(json.dumps(values))
    source = HuggingFaceSource(directory)
    both = wanted["model.layers.1.mlp.experts.gate_up_proj"]
    down = wanted["model.layers.1.mlp.experts.down_proj"]
    for name, rows in (
        ("layers.1.mlp.gate", both[:, 0::2]),
        ("layers.1.mlp.up", both[:, 1::2]),
        ("layers.1.mlp.down", down),
    ):
        flat = rows.reshape(-1, rows.shape[2])
        assert np.array_equal(source.rows(name, 0, len(flat)), flat)
        assert np.array_equal(source.rows(name, 7, 50), flat[7:50])
        planes = source.exact_planes(name)
        assert planes is not None
        assert np.array_equal(dequantize(planes, 8), flat)
    checkpoint = Checkpoint.open(convert(source, tmp_path / "planes"))
    assert np.array_equal(
        dequantize(checkpoint.matrix("layers.1.mlp.down"), 8), down.reshape(-1, 96)
    )
