"""A draft head on disk: `halfbyte-head.json`, its tensors, and what they may be (docs/eagle.md)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from halfbyte.config import GROUP_SIZES, ModelConfig, is_flat, model_values
from halfbyte.errors import ModelError
from halfbyte.formats import json_text
from halfbyte.formats.checkpoint import check_finite, check_tensors, open_files, plane_arrays
from halfbyte.formats.manifest import (
    bad_field,
    check_keys,
    check_version,
    read_files,
    read_mapping,
    read_model,
    read_object,
)
from halfbyte.formats.names import expected_tensors
from halfbyte.formats.tensor_file import TensorFile
from halfbyte.formats.weights import Dense, Planes

HEAD_VERSION: Final = 1  # of halfbyte-head.json, which counts its own versions
HEAD_MANIFEST = "halfbyte-head.json"
KINDS = ("eagle", "eagle3")
NORMS = ("embed", "feature", "attn", "final")
MAX_TAPS = 8
_SHAPE_KEYS = ("kind", "model", "norms", "fuse_bias", "taps", "draft_vocab", "own_head")
_KEYS = ("format", *_SHAPE_KEYS, "group_size", "files", "source")


@dataclass(frozen=True, slots=True)
class HeadConfig:
    """Shape of a draft head. E(x), F(x), A(x), O(x) are its norms or, where it has none, x itself.

    eagle    x = fuse [E(embedding); F(feature)]; a layer with A before attention; logits head O(x)
    eagle3   x = fuse [taps of the target], or the x it made itself; a layer whose q, k and v read
             [E(embedding); F(x)]; logits head O(x)
    """

    kind: str
    model: ModelConfig  # the one layer; vocabulary and hidden size are the target's
    norms: tuple[str, ...] = ()
    fuse_bias: bool = False
    # Layers of the target whose input is a feature; its number of layers: the final norm's output.
    # None: as published, the final norm's output (eagle) or layers 2, L/2 and L - 3 (eagle3).
    taps: tuple[int, ...] | None = None
    draft_vocab: int | None = None  # tokens it scores, named by `draft_ids`; None: all of them
    own_head: bool = False  # False: the target's head, or `draft_ids` rows of it

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise _fault("kind", self.kind, " or ".join(KINDS))
        if self.model.num_layers != 1 or not is_flat(self.model):
            raise _fault("model", f"{self.model.num_layers} layers", "one of a plain kind")
        if self.model.attention.qk_norm != "none":
            raise _fault("model", "q and k norms", "none")
        if len(set(self.norms)) != len(self.norms) or not set(self.norms) <= set(NORMS):
            raise _fault("norms", self.norms, f"some of {', '.join(NORMS)}")
        if self.is_eagle3 and not {"embed", "feature"} <= set(self.norms):
            raise _fault("norms", self.norms, "embed and feature, which an eagle3 head needs")
        if self.is_eagle3 and "attn" in self.norms:
            raise _fault("norms", self.norms, "no attn: an eagle3 head normalises its parts")
        taps, most = self.taps, MAX_TAPS if self.is_eagle3 else 1
        if taps is not None and not (
            1 <= len(taps) <= most and all(type(t) is int and 0 <= t < 1 << 16 for t in taps)
        ):
            raise _fault("taps", taps, f"1 to {most} layers")
        vocab = self.draft_vocab
        if vocab is not None and not (type(vocab) is int and 1 <= vocab <= self.model.vocab_size):
            raise _fault("draft_vocab", vocab, f"1 to {self.model.vocab_size}")

    @property
    def is_eagle3(self) -> bool:
        """Whether q, k and v read the embedding beside the hidden state."""
        return self.kind == "eagle3"

    @property
    def scored(self) -> int:
        """Tokens it scores."""
        return self.draft_vocab or self.model.vocab_size

    @property
    def num_taps(self) -> int:
        """Features of the target it reads, each as wide as the hidden state."""
        return len(self.taps) if self.taps is not None else 3 if self.is_eagle3 else 1

    def taps_of(self, num_layers: int) -> tuple[int, ...]:
        """What a target of that many layers has to keep."""
        taps = self.taps
        if taps is None:
            taps = (2, num_layers // 2, num_layers - 3) if self.is_eagle3 else (num_layers,)
        if not all(0 <= tap <= num_layers for tap in taps):
            raise _fault("taps", taps, f"layers of a target that has {num_layers}")
        return taps


class HeadWeights(Protocol):
    """A head on disk, or one being made."""

    @property
    def config(self) -> HeadConfig:
        """Its shape."""

    @property
    def draft_ids(self) -> NDArray[np.int32] | None:
        """The target's id of each token scored, where it scores only some: [draft_vocab]."""

    def matrix(self, name: str) -> Planes | Dense:
        """A matrix by the name in `head_tensors`: [N, K]."""

    def vector(self, name: str) -> NDArray[np.float32]:
        """A bias or norm: [n]."""


def head_tensors(config: HeadConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(name, shape) of every matrix and vector, in the order files are written."""
    hidden = config.model.hidden_size
    yield "fuse", (hidden, hidden * (config.num_taps if config.is_eagle3 else 2))
    if config.fuse_bias:
        yield "fuse.bias", (hidden,)
    for norm in ("embed", "feature", "final"):
        if norm in config.norms:
            yield f"norm.{norm}", (hidden,)
    for name, shape in expected_tensors(config.model):
        if not name.startswith("layers."):
            continue
        if name == "layers.0.norm.attn" and "attn" not in config.norms:
            continue
        doubled = config.is_eagle3 and name in {f"layers.0.attn.{x}" for x in "qkv"}
        yield name, (shape[0], 2 * hidden) if doubled else shape
    if config.own_head:
        yield "head", (config.scored, hidden)


@dataclass(frozen=True, slots=True)
class HeadManifest:
    """The checked contents of `halfbyte-head.json`."""

    config: HeadConfig
    group_size: int
    files: dict[str, int]
    source: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """The text of halfbyte-head.json."""
        values = asdict(self.config) | {
            "format": HEAD_VERSION,
            "model": model_values(self.config.model),
            "group_size": self.group_size,
            "files": self.files,
            "source": self.source,
        }
        return json_text.written(values)


def read_head_manifest(directory: Path) -> HeadManifest:
    """Raises FormatError with the names of docs/format.md."""
    values = read_object(directory, HEAD_MANIFEST)
    check_version(values.get("format"), HEAD_VERSION)
    check_keys(values, _KEYS)
    group_size = values.get("group_size")
    if type(group_size) is not int or group_size not in GROUP_SIZES:
        raise bad_field("group_size", group_size, "32, 64 or 128")
    for flag in ("fuse_bias", "own_head"):
        if type(values.get(flag)) is not bool:
            raise bad_field(flag, values.get(flag), "true or false")
    norms, taps = values.get("norms"), values.get("taps")
    if not isinstance(norms, list) or not all(isinstance(x, str) for x in norms):
        raise bad_field("norms", norms, "a list of names")
    if taps is not None and not isinstance(taps, list):
        raise bad_field("taps", taps, "a list of layers, or null")
    try:
        config = HeadConfig(
            kind=str(values.get("kind")),
            model=read_model(values.get("model"), 1),
            norms=tuple(norms),
            fuse_bias=values["fuse_bias"],
            taps=None if taps is None else tuple(taps),
            draft_vocab=values.get("draft_vocab"),
            own_head=values["own_head"],
        )
    except ModelError as error:
        raise bad_field(error.what, error.got, error.expected) from error
    return HeadManifest(config, group_size, read_files(values), read_mapping(values, "source"))


@dataclass(frozen=True, slots=True)
class HeadCheckpoint:
    """A head directory, opened: `HeadWeights` over mapped files."""

    path: Path
    manifest: HeadManifest
    draft_ids: NDArray[np.int32] | None
    _tensors: dict[str, TensorFile]

    @classmethod
    def open(cls, path: Path | str) -> HeadCheckpoint:
        """Check names, shapes, dtypes, sizes and ids; raises FormatError."""
        directory = Path(path)
        manifest = read_head_manifest(directory)
        tensors = open_files(directory, manifest.files)
        wanted = list(head_tensors(manifest.config))
        extra = {}
        if (vocab := manifest.config.draft_vocab) is not None:
            extra["draft_ids"] = (("I32",), (vocab,))
        entries = {name: file.entries[name] for name, file in tensors.items()}
        check_tensors(wanted, entries, manifest.group_size, extra.items())
        ids = None
        if extra:
            ids = tensors["draft_ids"].array("draft_ids")
            size = manifest.config.model.vocab_size
            if ids.min() < 0 or ids.max() >= size or len(np.unique(ids)) != len(ids):
                raise bad_field("draft_ids", "ids twice or too large", f"distinct ids below {size}")
        return cls(directory, manifest, ids, tensors)

    @property
    def config(self) -> HeadConfig:
        """Its shape."""
        return self.manifest.config

    @property
    def source(self) -> dict[str, Any]:
        """Where it comes from, for people."""
        return self.manifest.source

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensor files."""
        return sum(self.manifest.files.values())

    def matrix(self, name: str) -> Planes:
        """A matrix: [N, K]."""
        arrays = plane_arrays(name, self._optional)
        return Planes(**arrays, group_size=self.manifest.group_size)

    def vector(self, name: str) -> NDArray[np.float32]:
        """A bias or norm: [n]."""
        values: NDArray[np.float32] = self._array(name)
        check_finite(name, values)
        return values

    def _array(self, name: str) -> NDArray[Any]:
        return self._tensors[name].array(name)

    def _optional(self, name: str) -> NDArray[Any] | None:
        return self._array(name) if name in self._tensors else None


def _fault(what: str, got: object, expected: object) -> ModelError:
    return ModelError(
        f"draft head {what}", got=got, expected=expected, fix="check the head's config"
    )
