"""A published EAGLE head (config.json and one weight file) as `HeadWeights`.

    EAGLE-1, EAGLE-2   fc [H, 2H] and bias, layers.0 without its input norm; the target's head
    EAGLE-3            fc [H, 3H], midlayer with q, k, v of [.., 2H], norm, lm_head over d2t's ids

Most are published as pytorch_model.bin, a pickle: it is read by torch with nothing but tensors
allowed. `d2t` holds offsets: the target's id of draft id i is i + d2t[i].
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfbyte.config import ModelConfig
from halfbyte.errors import FormatError, SourceError, reraise_machine_fault
from halfbyte.formats.draft_head import HeadConfig, head_tensors
from halfbyte.formats.tensor_file import TensorFile
from halfbyte.formats.weights import Dense
from halfbyte.importers.huggingface_config import read_config
from halfbyte.importers.json_file import read_json
from halfbyte.importers.source import bf16_to_f32, check_finite

_FILES = ("model.safetensors", "pytorch_model.bin")
_FUSE = "fc.weight"
_IGNORED = ("embed_tokens.weight", "lm_head.weight", "t2d", "d2t")  # the target's, or derived
_LAYER = {
    "attn.q": "self_attn.q_proj",
    "attn.k": "self_attn.k_proj",
    "attn.v": "self_attn.v_proj",
    "attn.o": "self_attn.o_proj",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
    "norm.mlp": "post_attention_layernorm",
}
Arrays = dict[str, NDArray[Any]]


def is_head(path: Path) -> bool:
    """Whether a directory holds a draft head rather than a model."""
    if not (path / "config.json").is_file():
        return False
    values = read_json(path / "config.json")
    if "eagle" in str(values.get("architectures", "")).lower():
        return True
    file = path / _FILES[0]
    if file.is_file():
        try:
            return _FUSE in TensorFile.open(file).entries
        except FormatError:
            return False
    return (path / _FILES[1]).is_file() and values.get("num_hidden_layers") == 1


class EagleSource:
    """Checked on opening: config, names, shapes. Raises SourceError or ModelError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        values = read_json(path / "config.json")
        arrays = _read_arrays(path)
        if _FUSE not in arrays:
            raise _fault(path, f"no tensor {_FUSE!r}", "an EAGLE head")
        shape = replace(read_config(values, bos_id=None, eos_ids=()), tied_head=False)
        is_eagle3 = any(name.startswith("midlayer.") for name in arrays)
        self._prefix = "midlayer" if is_eagle3 else "layers.0"
        bias = f"{self._prefix}.self_attn.q_proj.bias" in arrays
        shape = replace(shape, family="qwen2" if bias else "llama")
        shape = shape.with_attention(bias=bias, qk_norm="none")
        self.config = _config(path, values, shape, arrays, is_eagle3)
        self.draft_ids = _draft_ids(path, self.config, arrays)
        self._names = _names(self.config, self._prefix)
        self._arrays = arrays
        self._check()

    @property
    def description(self) -> dict[str, Any]:
        """Where the weights come from, for people."""
        return {"kind": "eagle head", "name": self.path.resolve().name, "head": self.config.kind}

    def matrix(self, name: str) -> Dense:
        """A matrix: [N, K]."""
        return Dense(_to_f32(self._arrays[self._names[name]]), "f32")

    def vector(self, name: str) -> NDArray[np.float32]:
        """A bias or norm: [n]."""
        values = _to_f32(self._arrays[self._names[name]])
        check_finite(self._names[name], values)
        return values

    def _check(self) -> None:
        unseen = {name for name in self._arrays if not name.endswith("rotary_emb.inv_freq")}
        unseen -= set(_IGNORED)
        for name, shape in head_tensors(self.config):
            theirs = self._names[name]
            if theirs not in self._arrays:
                raise _fault(self.path, f"no tensor {theirs!r}", f"one of shape {list(shape)}")
            array = self._arrays[theirs]
            if array.shape != shape:
                got = f"tensor {theirs!r} of shape {list(array.shape)}"
                raise _fault(self.path, got, list(shape))
            unseen.discard(theirs)
        if unseen:
            raise _fault(self.path, f"a tensor {min(unseen)!r}", "only those of an EAGLE head")


def _config(
    path: Path, values: dict[str, Any], shape: ModelConfig, arrays: Arrays, is_eagle3: bool
) -> HeadConfig:
    if shape.num_layers != 1:
        shape = replace(shape, num_layers=1)  # some configs keep the target's number
    at = "midlayer" if is_eagle3 else "layers.0"
    norms = ["embed", "feature"] if is_eagle3 else []
    if not is_eagle3 and f"{at}.input_layernorm.weight" in arrays:
        norms.append("attn")
    if "norm.weight" in arrays:
        norms.append("final")
    inputs = arrays[_FUSE].shape[-1]
    if inputs % shape.hidden_size:
        raise _fault(path, f"{_FUSE} of {inputs} inputs", f"a multiple of {shape.hidden_size}")
    return HeadConfig(
        kind="eagle3" if is_eagle3 else "eagle",
        model=shape,
        norms=tuple(norms),
        fuse_bias="fc.bias" in arrays,
        taps=_taps(path, values, inputs // shape.hidden_size) if is_eagle3 else None,
        draft_vocab=_draft_vocab(shape, arrays) if is_eagle3 else None,
        own_head=is_eagle3,
    )


def _taps(path: Path, values: dict[str, Any], count: int) -> tuple[int, ...] | None:
    """Layers named by the config; None: the published three."""
    named = values.get("eagle_config")
    layers = named.get("eagle_aux_hidden_state_layer_ids") if isinstance(named, dict) else None
    if layers is None:
        if count != 3:
            raise _fault(path, f"{_FUSE} for {count} features", "3, or a config that names layers")
        return None
    if not isinstance(layers, list) or len(layers) != count:
        raise _fault(path, f"layers {layers!r}"[:80], f"{count} of them")
    return tuple(layers)


def _draft_vocab(shape: ModelConfig, arrays: Arrays) -> int | None:
    if "lm_head.weight" not in arrays or arrays["lm_head.weight"].ndim != 2:
        return None
    scored = int(arrays["lm_head.weight"].shape[0])
    return None if scored == shape.vocab_size else scored


def _draft_ids(path: Path, config: HeadConfig, arrays: Arrays) -> NDArray[np.int32] | None:
    if config.draft_vocab is None:
        return None
    offsets = arrays.get("d2t")
    if offsets is None or offsets.shape != (config.draft_vocab,):
        raise _fault(path, "no fitting d2t", f"{config.draft_vocab} offsets of draft ids")
    ids = np.arange(config.draft_vocab, dtype=np.int64) + offsets.astype(np.int64)
    size = config.model.vocab_size
    if ids.min() < 0 or ids.max() >= size or len(np.unique(ids)) != len(ids):
        raise _fault(path, "d2t with ids twice or too large", f"distinct ids below {size}")
    return ids.astype(np.int32)


def _names(config: HeadConfig, prefix: str) -> dict[str, str]:
    """Our names -> theirs."""
    names = {"fuse": _FUSE, "fuse.bias": "fc.bias", "norm.final": "norm.weight"}
    names |= {"head": "lm_head.weight", "layers.0.norm.attn": f"{prefix}.input_layernorm.weight"}
    names |= {"norm.embed": f"{prefix}.input_layernorm.weight"}
    names |= {"norm.feature": f"{prefix}.hidden_norm.weight"}
    for ours, theirs in _LAYER.items():
        names[f"layers.0.{ours}"] = f"{prefix}.{theirs}.weight"
        names[f"layers.0.{ours}.bias"] = f"{prefix}.{theirs}.bias"
    return names


def _read_arrays(path: Path) -> Arrays:
    if (path / _FILES[0]).is_file():
        try:
            file = TensorFile.open(path / _FILES[0])
            readable = ("F32", "F16", "BF16", "I64", "I32")
            return {
                name: file.array(name)
                for name, entry in file.entries.items()
                if entry.dtype in readable
            }
        except FormatError as error:
            raise SourceError(
                error.what, got=error.got, expected=error.expected, fix=error.fix
            ) from error
    if not (path / _FILES[1]).is_file():
        raise _fault(path, "no weights", " or ".join(_FILES))
    return _read_pickle(path / _FILES[1])


def _read_pickle(path: Path) -> Arrays:
    try:
        import torch
    except ImportError as error:
        raise SourceError(
            f"{path.parent.name}/{path.name}",
            got="a pickle, and no torch to read it safely",
            expected="model.safetensors, or torch installed",
            fix="pip install 'halfbyte[train]', or convert the file to safetensors",
        ) from error
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
        return {
            name: tensor.view(torch.int16).numpy().view(np.uint16)
            if tensor.dtype == torch.bfloat16
            else tensor.numpy()
            for name, tensor in values.items()
            if tensor.dtype != torch.bool
        }
    except Exception as error:
        reraise_machine_fault(f"draft head {path.parent.name}", error)
        raise _fault(
            path.parent, f"{path.name}: {str(error)[:120]}", "a file of tensors"
        ) from error


def _to_f32(values: NDArray[Any]) -> NDArray[np.float32]:
    return bf16_to_f32(values) if values.dtype == np.uint16 else values.astype(np.float32)


def _fault(path: Path, got: object, expected: object) -> SourceError:
    return SourceError(
        f"draft head {path.name}",
        got=got,
        expected=expected,
        fix="use a published EAGLE head of one layer, complete with its config.json",
    )
