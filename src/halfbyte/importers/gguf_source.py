"""A GGUF file as a `Source`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfbyte.config import ModelConfig
from halfbyte.errors import SourceError
from halfbyte.formats.names import expected_matrices, expected_tensors
from halfbyte.formats.weights import Dense, Planes
from halfbyte.importers.families import Place, places
from halfbyte.importers.gguf_blocks import EXACT_GROUP, EXACT_TYPES, to_f32, to_planes
from halfbyte.importers.gguf_config import family_of, read_config
from halfbyte.importers.gguf_parts import GgufParts, StoredTensor, open_parts
from halfbyte.importers.gguf_types import row_bytes
from halfbyte.importers.source import HEAD_BITS, check_finite
from halfbyte.importers.tokenizer_gguf import read_tokenizer

_IGNORED = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
_OUTER = ("embed", "head")
# Beside a matrix of a type with narrow scales: what all of it is times; what its input is times.
_FACTOR, _INPUT_FACTOR = "scale", "input_scale"
_DENSE: dict[str, tuple[str, np.dtype[Any]]] = {
    "F32": ("f32", np.dtype("<f4")),
    "F16": ("f16", np.dtype("<f2")),
    "BF16": ("bf16", np.dtype("<u2")),
}


class GgufSource:
    """A `Source`. Header, names, shapes, types are checked on opening: SourceError, ModelError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._parts = open_parts(path)
        text = read_tokenizer(self._parts.metadata)
        self.tokenizer_json = text.json
        self.chat_template = text.chat_template
        self.named_templates = text.named_templates
        self.tokenizer_info = text.info
        self.head_bits = dict(HEAD_BITS)
        self.config = read_config(
            self._parts,
            frequency_factors=self._frequency_factors(),
            bos_id=text.info.get("bos"),
            eos_ids=tuple(text.info.get("eos_ids", ())),
        )
        self._places = _checked_places(path, self._parts, self.config)
        # (planes, group size) that hold the layers exactly; None: no planes do.
        self.natural = self._natural()

    @property
    def description(self) -> dict[str, Any]:
        """Where the weights come from, for people: kind, name, architecture, types."""
        metadata = self._parts.metadata
        types = Counter(
            tensor.type_name for tensor in self._parts.tensors.values() if len(tensor.shape) > 1
        )
        return {
            "kind": "gguf",
            "name": self.path.name,
            "architecture": metadata["general.architecture"],
            "model": str(metadata.get("general.name", ""))[:200],
            "license": str(metadata.get("general.license", ""))[:200],
            "types": dict(types.most_common()),
        }

    def type_of(self, name: str) -> str:
        """How a matrix is stored: F32, F16, BF16, Q4_1 …"""
        return self._tensor(name).type_name

    def rows(self, name: str, begin: int, end: int) -> NDArray[np.float32]:
        """Rows begin .. end of a matrix as float32: [end - begin, K]."""
        values = to_f32(self._raw_rows(name, begin, end), self.type_of(name))
        factor = self._factor(name)
        return values if factor is None else values * factor

    def matrix(self, name: str) -> Dense:
        """A matrix with the values of the source: [N, K]."""
        tensor, rows = self._tensor(name), self._places[name].count
        inputs = tensor.shape[-1]
        if tensor.type_name in _DENSE and self._factor(name) is None:
            kind, dtype = _DENSE[tensor.type_name]
            return Dense(self._raw_rows(name, 0, rows).view(dtype).reshape(rows, inputs), kind)
        values = np.empty((rows, inputs), dtype=np.float32)
        step = max(1, (1 << 20) // inputs)
        for begin in range(0, rows, step):
            values[begin : begin + step] = self.rows(name, begin, min(begin + step, rows))
        return Dense(values, "f32")

    def vector(self, name: str) -> NDArray[np.float32]:
        """A bias or norm: [n]."""
        tensor = self._tensor(name)
        place = self._places[name]
        values = to_f32(tensor.raw.reshape(1, -1), tensor.type_name).reshape(-1)
        check_finite(place.tensors[0], values)
        return values[place.rows(0, place.count)]

    def exact_planes(self, name: str) -> Planes | None:
        """The matrix as planes of group 32 with exactly its values, where its grid allows."""
        tensor, natural = self._tensor(name), self.natural
        if natural is None or self._factor(name) is not None:
            return None
        if natural[0] == 8 and tensor.type_name not in EXACT_TYPES[8]:
            return None  # it has no second plane
        return to_planes(self._raw_rows(name, 0, self._places[name].count), tensor.type_name)

    def _natural(self) -> tuple[int, int] | None:
        names = [name for name, _ in expected_matrices(self.config) if name not in _OUTER]
        for planes, kinds in EXACT_TYPES.items():
            if all(self.type_of(n) in kinds and self._factor(n) is None for n in names):
                return planes, EXACT_GROUP
        return None

    def _tensor(self, name: str) -> StoredTensor:
        return self._parts.tensors[self._places[name].tensors[0]]

    def _factor(self, name: str) -> np.float32 | None:
        """What the whole matrix is times, where a file says so and it is not 1."""
        tensor = self._parts.tensors.get(_beside(self._places[name], _FACTOR))
        if tensor is None:
            return None
        factor: np.float32 = tensor.raw.view(np.dtype("<f4"))[0]
        return None if factor == 1 else factor

    def _raw_rows(self, name: str, begin: int, end: int) -> NDArray[np.uint8]:
        """[end - begin, row_bytes], in our row order; a view where the orders agree."""
        tensor = self._tensor(name)
        raw = tensor.raw.reshape(-1, row_bytes(tensor.type_name, tensor.shape[-1]))
        return np.asarray(raw[self._places[name].rows(begin, end)])

    def _frequency_factors(self) -> tuple[float, ...]:
        tensor = self._parts.tensors.get("rope_freqs.weight")
        if tensor is None:
            return ()
        if tensor.type_name != "F32" or len(tensor.shape) != 1 or tensor.shape[0] > 128:
            raise _fault(
                self.path, f"rope_freqs.weight of shape {tensor.shape}", "one F32 number a pair"
            )
        values = tensor.raw.view(np.dtype("<f4"))
        if not (np.isfinite(values).all() and (values > 0).all()):
            raise _fault(
                self.path,
                "rope_freqs.weight with zero, negative or infinite values",
                "positive numbers",
            )
        return tuple(float(x) for x in values)


def _beside(place: Place, what: str) -> str:
    return f"{place.tensors[0].removesuffix('.weight')}.{what}"


def _checked_places(path: Path, parts: GgufParts, config: ModelConfig) -> dict[str, Place]:
    unseen = set(parts.tensors) - set(_IGNORED)
    shapes = expected_tensors(config)
    found = {}
    for name, place in places(config, family_of(parts.metadata), gguf=True):
        theirs, tensor = place.tensors[0], parts.tensors.get(place.tensors[0])
        _, shape = next(shapes)
        if tensor is None:
            raise _fault(path, f"no tensor {theirs!r}", f"one of shape {list(place.shape)}")
        if tensor.shape != place.shape:
            raise _fault(
                path, f"tensor {theirs!r} of shape {list(tensor.shape)}", list(place.shape)
            )
        if len(shape) == 1 and tensor.type_name not in ("F32", "F16", "BF16"):
            raise _fault(path, f"tensor {theirs!r} of type {tensor.type_name}", "F32")
        found[name] = place
        unseen.discard(theirs)
        for what in (_FACTOR, _INPUT_FACTOR) if len(shape) == 2 else ():
            if (beside := _beside(place, what)) in unseen:
                _check_factor(path, beside, parts.tensors[beside])
                unseen.discard(beside)
    if unseen:
        expected = f"only the tensors of a {config.family} of its metadata"
        raise _fault(path, f"a tensor {min(unseen)!r}", expected, fix="this variant cannot be run")
    tokens = parts.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, list) and len(tokens) > config.vocab_size:
        raise _fault(
            path, f"{len(tokens)} tokens", f"at most {config.vocab_size}, the embedding's rows"
        )
    return found


def _check_factor(path: Path, name: str, tensor: StoredTensor) -> None:
    if tensor.type_name != "F32" or tensor.shape != (1,):
        got = f"tensor {name!r} of shape {list(tensor.shape)} ({tensor.type_name})"
        raise _fault(path, got, "one F32 number")
    check_finite(name, tensor.raw.view(np.dtype("<f4")))


def _fault(
    path: Path,
    got: object,
    expected: object,
    *,
    fix: str = "the file is damaged or of another kind; download it again",
) -> SourceError:
    return SourceError(f"GGUF file {path.name}", got=got, expected=expected, fix=fix)
