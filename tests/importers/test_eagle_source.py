"""Published layouts of EAGLE heads load, convert and run; what is damaged is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halfbyte.errors import HalfbyteError, SourceError
from halfbyte.formats.draft_head import HEAD_MANIFEST, HeadCheckpoint, head_tensors
from halfbyte.formats.tensor_file import write_tensor_file
from halfbyte.importers.convert_head import write_head
from halfbyte.importers.eagle_source import EagleSource, is_head
from tests.support.tiny_heads import HEADS, TinyHead, make_head
from tests.support.tiny_models import CONFIGS

HIDDEN, VOCAB = 64, 131


def published(kind: str, path: Path, *, pickled: bool = False, **changes: Any) -> Path:
    """A random head in the layout of the published ones."""
    rng = np.random.default_rng(1)
    wide = kind == "eagle3"
    at, inputs = ("midlayer", 128) if wide else ("layers.0", 64)
    shapes: dict[str, tuple[int, ...]] = {
        "fc.weight": (64, 192 if wide else 128),
        f"{at}.self_attn.q_proj.weight": (64, inputs),
        f"{at}.self_attn.k_proj.weight": (32, inputs),
        f"{at}.self_attn.v_proj.weight": (32, inputs),
        f"{at}.self_attn.o_proj.weight": (64, 64),
        f"{at}.mlp.gate_proj.weight": (128, 64),
        f"{at}.mlp.up_proj.weight": (128, 64),
        f"{at}.mlp.down_proj.weight": (64, 128),
        f"{at}.post_attention_layernorm.weight": (64,),
        "embed_tokens.weight": (VOCAB, 64),
    }
    if wide:
        shapes |= {f"{at}.{x}.weight": (64,) for x in ("hidden_norm", "input_layernorm")}
        shapes |= {"norm.weight": (64,), "lm_head.weight": (40, 64)}
    else:
        shapes["fc.bias"] = (64,)
    tensors: dict[str, tuple[str, Any]] = {
        name: ("F32", rng.standard_normal(shape).astype(np.float32) / 8)
        for name, shape in shapes.items()
    }
    if wide:
        ids = np.sort(rng.permutation(VOCAB)[:40])
        tensors["d2t"] = ("I64", (ids - np.arange(40)).astype(np.int64))
    tensors |= changes
    path.mkdir()
    c = CONFIGS["llama"]
    config = {
        "architectures": ["LlamaForCausalLMEagle3" if wide else "LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": c.attention.num_heads,
        "num_key_value_heads": c.attention.num_kv_heads,
        "num_hidden_layers": 1,
        "vocab_size": VOCAB,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 2048,
        "draft_vocab_size": 40,
    }
    (path / "config.json").write_text(json.dumps(config))
    if pickled:
        torch = pytest.importorskip("torch")
        arrays = {name: torch.from_numpy(values) for name, (_, values) in tensors.items()}
        arrays["t2d"] = torch.ones(VOCAB, dtype=torch.bool)
        torch.save(arrays, path / "pytorch_model.bin")
    else:
        write_tensor_file(path / "model.safetensors", tensors)
    return path


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize("kind", ["eagle", "eagle3"])
def test_published_layouts_convert_and_read_back(tmp_path: Path, kind: str, pickled: bool) -> None:
    path = published(kind, tmp_path / "head", pickled=pickled)
    assert is_head(path)
    source = EagleSource(path)
    dest = write_head(source, tmp_path / "out", source=source.description)
    head = HeadCheckpoint.open(dest)
    assert head.config == source.config
    assert head.config.kind == kind
    assert head.config.taps_of(32) == ((2, 16, 29) if kind == "eagle3" else (32,))
    for name, shape in head_tensors(head.config):
        if len(shape) == 1:
            assert (head.vector(name) == source.vector(name)).all()
        else:
            assert head.matrix(name).hi.shape == (shape[0], shape[1] // 2)
    if kind == "eagle3":
        assert head.config.own_head
        assert head.draft_ids is not None
        assert source.draft_ids is not None
        assert (head.draft_ids == source.draft_ids).all()
        assert len(head.draft_ids) == 40


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return print, ("ran",)

    path = published("eagle", tmp_path / "head")
    (path / "model.safetensors").unlink()
    torch.save({"fc.weight": Evil()}, path / "pytorch_model.bin")
    with pytest.raises(SourceError, match="expected a file of tensors"):
        EagleSource(path)


@pytest.mark.parametrize(
    ("kind", "change", "why"),
    [
        ("eagle", {"fc.weight": ("F32", np.zeros((64, 100), np.float32))}, "a multiple of 64"),
        ("eagle", {"mystery.weight": ("F32", np.zeros(3, np.float32))}, "only those of an EAGLE"),
        ("eagle", {"layers.0.mlp.up_proj.weight": ("F32", np.zeros((1, 64), np.float32))}, "shape"),
        ("eagle3", {"d2t": ("I64", np.zeros(40, np.int64) - 1)}, "distinct ids"),
        ("eagle3", {"d2t": ("I64", np.zeros(3, np.int64))}, "offsets of draft ids"),
        ("eagle3", {"fc.weight": ("F32", np.zeros((64, 128), np.float32))}, "names layers"),
        ("eagle", {"fc.bias": ("F32", np.full(64, np.nan, np.float32))}, "finite"),
    ],
)
def test_damaged_heads_are_named(
    tmp_path: Path, kind: str, change: dict[str, Any], why: str
) -> None:
    path = published(kind, tmp_path / "head", **change)
    with pytest.raises(HalfbyteError, match=why):
        write_head(EagleSource(path), tmp_path / "out", source={})
    assert not (tmp_path / "out").exists()


def _written(tmp_path: Path, name: str = "eagle3") -> tuple[Path, TinyHead]:
    weights = make_head(HEADS[name])
    return write_head(weights, tmp_path / "head", source={}), weights


@pytest.mark.parametrize("name", HEADS)
def test_a_head_reads_back_as_written(tmp_path: Path, name: str) -> None:
    path, weights = _written(tmp_path, name)
    head = HeadCheckpoint.open(path)
    assert head.config == weights.config
    for tensor, shape in head_tensors(head.config):
        if len(shape) == 1:
            assert (head.vector(tensor) == weights.vector(tensor)).all()
        else:
            assert (head.matrix(tensor).hi == weights.matrices[tensor].hi).all()  # type: ignore


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("kind", "medusa", "bad-field"),
        ("norms", ["embed", "embed"], "bad-field"),
        ("norms", "embed", "bad-field"),
        ("taps", {}, "bad-field"),
        ("taps", [0, 1], "wrong-shape"),
        ("taps", [True, 1, 2], "bad-field"),
        ("draft_vocab", 10**9, "bad-field"),
        ("draft_vocab", 49, "wrong-shape"),
        ("own_head", 1, "bad-field"),
        ("own_head", False, "unexpected-tensor"),
        ("group_size", 48, "bad-field"),
        ("format", 3, "bad-version"),
        ("colour", "red", "unknown-key"),
        ("model", None, "bad-model"),
        ("files", {"../x.safetensors": 1}, "bad-file-name"),
    ],
)
def test_a_manifest_that_lies_is_refused(
    tmp_path: Path, key: str, value: object, fault: str
) -> None:
    path, _ = _written(tmp_path)
    manifest = path / HEAD_MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {key: value}))
    with pytest.raises(HalfbyteError, match=fault):
        HeadCheckpoint.open(path)


def test_draft_ids_must_be_distinct_ids_of_the_target(tmp_path: Path) -> None:
    for bad in (np.zeros(50, np.int32), np.arange(50, dtype=np.int32) + 100):
        weights = make_head(HEADS["eagle3"])
        path = tmp_path / str(bad[0])
        broken = TinyHead(weights.config, weights.matrices, weights.vectors, bad)
        write_head(broken, path, source={})
        with pytest.raises(HalfbyteError, match="draft_ids"):
            HeadCheckpoint.open(path)
