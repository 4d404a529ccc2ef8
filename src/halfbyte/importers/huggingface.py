"""A Hugging Face model directory (config.json, safetensors) as a `Source`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfbyte.config import FLAT_FAMILIES, ModelConfig
from halfbyte.errors import FormatError, SourceError
from halfbyte.formats.names import expected_matrices, expected_tensors
from halfbyte.formats.tensor_file import TensorEntry, TensorFile
from halfbyte.formats.weights import Dense, Planes
from halfbyte.importers import gguf_blocks, mxfp4
from halfbyte.importers.architectures import BY_NAME
from halfbyte.importers.families import Place, places
from halfbyte.importers.gguf_blocks import EXACT_GROUP
from halfbyte.importers.huggingface_config import model_type, read_config
from halfbyte.importers.huggingface_tokenizer import read_tokenizer
from halfbyte.importers.integer_weights import UnfitError, to_planes
from halfbyte.importers.json_file import read_json
from halfbyte.importers.packed_matrices import PackedMatrices, stem
from halfbyte.importers.packing import plane_group
from halfbyte.importers.quantized_config import read_packing
from halfbyte.importers.source import HEAD_BITS, bf16_to_f32, check_finite
from halfbyte.importers.stacked_rows import stacked_rows

_DTYPES = {"F32": "f32", "F16": "f16", "BF16": "bf16"}
_INDEX = "model.safetensors.index.json"
# Where larger models keep a language model.
_LANGUAGE = {
    "language_model.model.": "model.",
    "model.language_model.": "model.",
    "language_model.lm_head.": "lm_head.",
    "lm_head.": "lm_head.",
}
_BUFFERS = (
    "rotary_emb.inv_freq",
    "attn.masked_bias",
    "attn.bias",
)  # constants old exports carried along


class HuggingFaceSource:
    """A `Source`. Config, names, shapes, dtypes are checked on opening: SourceError, ModelError."""

    def __init__(self, path: Path, *, name: str | None = None) -> None:
        self.path = path
        self._name = name or path.resolve().name
        values = read_json(path / "config.json")
        packing = read_packing(path, values)
        text = read_tokenizer(path, values)
        self.tokenizer_json = text.json
        self.chat_template = text.chat_template
        self.named_templates = text.named_templates
        self.tokenizer_info = text.info
        self.head_bits = dict(HEAD_BITS)
        self.config = read_config(
            values, bos_id=text.info.get("bos"), eos_ids=tuple(text.info.get("eos_ids", ()))
        )
        self._architecture = model_type(values)
        self._files = _open_files(path)
        if "text_config" in values:
            self._files = _language_part(self._files)
        self._packed = None
        if packing:
            _check_packed(self._architecture)
            self._packed = PackedMatrices(packing, self._files, self.config)
        self.natural: tuple[int, int] | None = None
        if packing is not None and self._packed is not None and self._packed.is_whole:
            inputs = {shape[1] for _, shape in expected_matrices(self.config)}
            self.natural = packing.bits, plane_group(packing, inputs)
        self._places = _checked_places(self._files, self.config, self._architecture, self._packed)
        self._blocks = {
            n for n, place in self._places.items() if mxfp4.is_packed(self._files, place)
        }
        if self._blocks:
            self.natural = 8, EXACT_GROUP

    @property
    def description(self) -> dict[str, Any]:
        """Where the weights come from, for people: kind, name, architecture, types."""
        types = Counter(
            self.type_of(name) for name, shape in expected_tensors(self.config) if len(shape) == 2
        )
        return {
            "kind": "huggingface",
            "name": self._name,
            "architecture": self._architecture,
            "types": dict(types.most_common()),
        }

    def type_of(self, name: str) -> str:
        """How a matrix is stored: F32, F16, BF16, Q4_1 …"""
        if self._packed is not None and name in self._packed:
            return self._packed.kind
        if name in self._blocks:
            return mxfp4.TYPE
        return self._entry(name).dtype

    def rows(self, name: str, begin: int, end: int) -> NDArray[np.float32]:
        """Rows begin .. end of a matrix as float32: [end - begin, K]."""
        if self._packed is not None and name in self._packed:
            return self._packed.read(name, begin, end).dequantize()
        if name in self._blocks:
            raw = mxfp4.read_rows(self._files, self._places[name], begin, end)
            return gguf_blocks.to_f32(raw, mxfp4.TYPE)
        return _to_f32(self._rows(name, begin, end))

    def matrix(self, name: str) -> Dense:
        """A matrix with the values of the source: [N, K]."""
        if self._packed is not None and name in self._packed:
            return Dense(self.rows(name, 0, dict(expected_matrices(self.config))[name][0]), "f32")
        rows = self._places[name].count
        if name in self._blocks:
            return Dense(self.rows(name, 0, rows), "f32")
        return Dense(self._rows(name, 0, rows), _DTYPES[self._entry(name).dtype])

    def vector(self, name: str) -> NDArray[np.float32]:
        """A bias or norm: [n]."""
        place = self._places[name]
        stored = place.tensors[0]
        values = _to_f32(self._files[stored].array(stored)).reshape(-1)
        check_finite(stored, values)
        if place.times:
            factor = _to_f32(self._files[place.times].array(place.times))
            factor = factor * np.float32(len(factor) ** -0.5)
            values = (values.reshape(-1, len(factor)) * factor).reshape(-1)
        wanted = values[place.rows(0, self._places[name].count)]
        return wanted + np.float32(place.offset) if place.offset else wanted

    def exact_planes(self, name: str) -> Planes | None:
        """The matrix as planes of the natural group with exactly its values.

        None for floating point weights, and where eight bits do not fit: again in eight bits they
        lose next to nothing. Raises SourceError where four bits do not fit.
        """
        if name in self._blocks:
            place = self._places[name]
            raw = mxfp4.read_rows(self._files, place, 0, place.count)
            return gguf_blocks.to_planes(raw, mxfp4.TYPE)
        if self._packed is None or name not in self._packed or self.natural is None:
            return None
        weights = self._packed.read(name, 0, dict(expected_matrices(self.config))[name][0])
        try:
            return to_planes(weights, self.natural[1])
        except UnfitError as error:
            if self.natural[0] == 8:
                return None
            raise SourceError(
                f"{self._packed.kind} matrix {stem(name)}",
                got=str(error),
                expected="a grid that planes hold exactly",
                fix="give --planes 8 --group 32 to quantize the model again instead",
            ) from error

    def _entry(self, name: str) -> TensorEntry:
        stored = self._places[name].tensors[0]
        return self._files[stored].entries[stored]

    def _rows(self, name: str, begin: int, end: int) -> NDArray[Any]:
        """Rows of a matrix as they are stored: [end - begin, K]."""
        place = self._places[name]
        return stacked_rows(place, begin, end, lambda tensor: self._files[tensor].array(tensor))


def _to_f32(values: NDArray[Any]) -> NDArray[np.float32]:
    return bf16_to_f32(values) if values.dtype == np.uint16 else values.astype(np.float32)


def _open_files(path: Path) -> dict[str, TensorFile]:
    """Tensor name -> the opened file it is in."""
    names = ["model.safetensors"]
    if not (path / names[0]).exists():
        if not (path / _INDEX).exists():
            fix = "name a directory with safetensors weights (pickled .bin weights are not read)"
            raise SourceError(
                f"model {path.name}",
                got="no model.safetensors",
                expected=f"it or {_INDEX}",
                fix=fix,
            )
        shards = read_json(path / _INDEX).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise _fault(_INDEX, "no weight_map", "an object of tensor and file names")
        names = sorted({str(name) for name in shards.values()})
    tensors: dict[str, TensorFile] = {}
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors") or "\\" in name:
            raise _fault(_INDEX, repr(name)[:80], "plain *.safetensors names")
        try:
            file = TensorFile.open(path / name)
        except FormatError as error:
            raise SourceError(
                error.what, got=error.got, expected=error.expected, fix=error.fix
            ) from error
        for tensor in file.entries:
            if tensor in tensors:
                raise _fault(name, f"tensor {tensor!r} twice", "once")
            tensors[tensor] = file
    return tensors


def _language_part(files: dict[str, TensorFile]) -> dict[str, TensorFile]:
    """The tensors of the language model in a larger one, by the names it has alone."""
    found: dict[str, TensorFile] = {}
    for file in {id(file): file for file in files.values()}.values():
        names = {
            name: own + name.removeprefix(prefix)
            for name in file.entries
            for prefix, own in _LANGUAGE.items()
            if name.startswith(prefix)
        }
        found |= dict.fromkeys(names.values(), file.named(names))
    return found


def _check_packed(architecture: str) -> None:
    if architecture not in FLAT_FAMILIES:
        raise _fault(
            "quantized model",
            f"a {architecture}",
            f"one of {', '.join(FLAT_FAMILIES)}",
            fix="use the model's unquantized weights, or a GGUF file",
        )


def _checked_places(
    files: dict[str, TensorFile],
    config: ModelConfig,
    architecture: str,
    packed: PackedMatrices | None,
) -> dict[str, Place]:
    unseen = set(files)
    if packed is not None:
        unseen -= packed.tensor_names()
    found = {}
    for name, place in places(config, BY_NAME[architecture], gguf=False):
        if packed is not None and name in packed:
            continue
        found[name] = place
        if mxfp4.is_packed(files, place):
            for theirs, shape in mxfp4.parts_of(place):
                _check_tensor(files, theirs, shape, ("U8",))
                unseen.discard(theirs)
            continue
        wanted = [(theirs, place.shape) for theirs in place.tensors]
        if place.times:
            wanted.append((place.times, place.shape[-1:]))
        for theirs, shape in wanted:
            _check_tensor(files, theirs, shape)
            unseen.discard(theirs)
    if config.tied_head:
        unseen.discard("lm_head.weight")  # some exports store the tied matrix twice
    strangers = [name for name in unseen if not name.endswith(_BUFFERS)]
    if packed is not None:  # some writers give every linear a bias
        strangers = [name for name in strangers if not _is_zero_bias(files[name], name)]
    if strangers:
        expected = f"only the tensors of a {config.family} of its config"
        raise _fault(
            "model", f"a tensor {min(strangers)!r}", expected, fix="this variant cannot be run"
        )
    return found


def _check_tensor(
    files: dict[str, TensorFile],
    name: str,
    shape: tuple[int, ...],
    dtypes: Container[str] = _DTYPES,
) -> None:
    if name not in files:
        raise _fault("model", f"no tensor {name!r}", f"one of shape {list(shape)}")
    entry = files[name].entries[name]
    if entry.shape != shape:
        raise _fault("model", f"tensor {name!r} of shape {list(entry.shape)}", list(shape))
    if entry.dtype not in dtypes:
        fix = "use the model's F32, F16 or BF16 weights"
        raise _fault(
            "model", f"tensor {name!r} of dtype {entry.dtype}", "F32, F16 or BF16", fix=fix
        )


def _is_zero_bias(file: TensorFile, name: str) -> bool:
    is_bias = name.endswith("_proj.bias") and file.entries[name].dtype in _DTYPES
    return is_bias and not _to_f32(file.array(name)).any()


def _fault(
    what: str,
    got: object,
    expected: object,
    *,
    fix: str = "the model is damaged or incomplete; download it again",
) -> SourceError:
    return SourceError(what, got=got, expected=expected, fix=fix)
