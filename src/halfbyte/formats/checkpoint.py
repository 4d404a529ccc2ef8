"""A checkpoint directory, opened: faults are found before a weight is used (docs/format.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfbyte.config import ModelConfig
from halfbyte.errors import ArgumentError, FormatError, reraise_machine_fault, told
from halfbyte.formats.manifest import GATHER, Manifest, read_manifest
from halfbyte.formats.names import expected_tensors, first_of_product, layer_inputs, site_of
from halfbyte.formats.template_files import template_file, template_names
from halfbyte.formats.tensor_file import TensorEntry, TensorFile
from halfbyte.formats.transforms import Gather, Rotation, Transform, is_permutation
from halfbyte.formats.weights import PLANE_PARTS, Dense, Planes

MAX_TEXT_BYTES = 256 << 20  # tokenizer.json of a 262k-token vocabulary is 33 MB
DENSE_DTYPES = {"F32": "f32", "F16": "f16", "BF16": "bf16"}
_Shape = tuple[tuple[str, ...], tuple[int, ...]]  # dtypes, shape


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Implements `Weights`; tensors are read-only views of mapped files."""

    path: Path
    manifest: Manifest
    _tensors: dict[str, TensorFile]  # tensor name -> the file it is in

    @classmethod
    def open(cls, path: Path | str) -> Checkpoint:
        """Check names, shapes, dtypes and sizes of everything; raises FormatError."""
        directory = Path(path)
        manifest = read_manifest(directory)
        tensors = open_files(directory, manifest.files)
        entries = {name: file.entries[name] for name, file in tensors.items()}
        check_tensors(
            expected_tensors(manifest.config),
            entries,
            manifest.group_size,
            _gathers(manifest),
            manifest.wide_groups,
            small=manifest.small,
        )
        return cls(directory, manifest, tensors)

    @property
    def config(self) -> ModelConfig:
        """The model that the weights belong to."""
        return self.manifest.config

    @property
    def group_size(self) -> int | None:
        """32, 64 or 128; None for a dense checkpoint."""
        return self.manifest.group_size

    @property
    def weights(self) -> str:
        """`planes` or `dense`."""
        return self.manifest.weights

    @property
    def head_bits(self) -> dict[int, int]:
        """Weight bits of a level -> planes its output head reads."""
        return dict(self.manifest.head_bits)

    @property
    def wide_groups(self) -> dict[str, int]:
        """Site -> groups at the end of its matrices' rows that run with 8 bits at any level."""
        return self.manifest.wide_groups

    @property
    def source(self) -> dict[str, Any]:
        """Where the weights come from and what was lost, for people."""
        return self.manifest.source

    @property
    def files(self) -> dict[str, int]:
        """Safetensors file name -> size in bytes."""
        return self.manifest.files

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensor files."""
        return sum(self.manifest.files.values())

    @property
    def tokenizer_info(self) -> dict[str, Any]:
        """`bos`, `add_bos`, `eos_ids`, `bos_token`, `eos_token`."""
        return self.manifest.tokenizer

    @property
    def tokenizer_path(self) -> Path | None:
        """tokenizer.json, where there is one."""
        path = self.path / "tokenizer.json"
        return path if path.is_file() else None

    @property
    def tokenizer_json(self) -> str | None:
        """Hugging Face tokenizers JSON, None for a model without a tokenizer."""
        return self._text("tokenizer.json")

    @property
    def chat_template(self) -> str | None:
        """Jinja source, None for a model without one."""
        return self._text("chat_template.jinja")

    @property
    def named_templates(self) -> dict[str, str]:
        """Further templates by name; `tool_use` is the one for conversations with tools."""
        return {name: self._text(template_file(name)) or "" for name in template_names(self.path)}

    def matrix(self, name: str) -> Planes | Dense:
        """A matrix with the values of the source: [N, K]."""
        if self.weights == "dense":
            entry = self._entry(f"{name}.weight")
            values = self._array(f"{name}.weight")
            return Dense(values, DENSE_DTYPES[entry.dtype], self._transform(name))
        self._entry(f"{name}.hi")
        assert self.group_size is not None
        return Planes(
            **plane_arrays(name, self._optional),
            group_size=self.group_size,
            wide_groups=_wide_of(name, self.wide_groups),
            transform=self._transform(name),
        )

    def vector(self, name: str) -> NDArray[np.float32]:
        """A bias or norm: [n]."""
        self._entry(name)
        values: NDArray[np.float32] = self._array(name)
        check_finite(name, values)
        return values

    def unload(self) -> None:
        """Give back the memory of what was read: a runtime has its own copy. All stays readable."""
        for file in {id(file): file for file in self._tensors.values()}.values():
            file.unload()

    @property
    def has_units(self) -> bool:
        """Whether a matrix has integer scales."""
        return any(name.endswith(".unit") for name in self._tensors)

    def has_lo(self, name: str) -> bool:
        """Whether 8 bits of the whole matrix are stored."""
        if f"{name}.lo" not in self._tensors:
            return False
        wide = _wide_of(name, self.wide_groups)
        return not wide or self._entry(f"{name}.lo").shape == self._entry(f"{name}.hi").shape

    def _transform(self, name: str) -> Transform | None:
        place = site_of(name)
        if place is None:
            return None
        layer, site = place
        transform = self.manifest.transforms.get(site)
        if transform is None or isinstance(transform, Rotation):
            return transform
        tensor = f"{layer}.{site}.gather"
        indices: NDArray[np.int32] = self._array(tensor)
        if not is_permutation(indices):
            raise _fault("bad-gather", tensor, "indices", f"each of 0 to {len(indices) - 1} once")
        return Gather(indices)

    def _entry(self, name: str) -> TensorEntry:
        if name not in self._tensors:
            expected = "a matrix or vector of docs/format.md"
            raise ArgumentError(
                "tensor", got=repr(name), expected=expected, fix="this model has no such tensor"
            )
        return self._tensors[name].entries[name]

    def _array(self, name: str) -> NDArray[Any]:
        return self._tensors[name].array(name)

    def _optional(self, name: str) -> NDArray[Any] | None:
        return self._array(name) if name in self._tensors else None

    def _text(self, name: str) -> str | None:
        path = self.path / name
        if not path.is_file():
            return None
        try:
            if path.stat().st_size > MAX_TEXT_BYTES:
                raise _fault(
                    "bad-text", name, f"{path.stat().st_size} bytes", f"at most {MAX_TEXT_BYTES}"
                )
            return path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            reraise_machine_fault(f"file {name} of the checkpoint", error)
            raise _fault("bad-text", name, error, "readable UTF-8 text") from error


def _check_size(path: Path, size: int) -> None:
    try:
        actual = path.stat().st_size
    except OSError as error:
        reraise_machine_fault(f"file {path.name} of the checkpoint", error)
        raise _fault("missing-file", path.name, told(error), "the file") from error
    if actual != size:
        raise _fault("wrong-size", path.name, f"{actual} bytes", f"{size}")


def open_files(directory: Path, files: dict[str, int]) -> dict[str, TensorFile]:
    """Tensor name -> the opened file it is in; each file has its size in bytes."""
    tensors: dict[str, TensorFile] = {}
    for name, size in files.items():
        _check_size(directory / name, size)
        file = TensorFile.open(directory / name)
        for tensor in file.entries:
            if tensor in tensors:
                raise _fault("duplicate-tensor", tensor, "a second one in " + name, "one")
            tensors[tensor] = file
    return tensors


def check_tensors(
    expected: Iterable[tuple[str, tuple[int, ...]]],
    entries: dict[str, TensorEntry],
    group_size: int | None,
    extra: Iterable[tuple[str, _Shape]] = (),
    wide_groups: Mapping[str, int] = MappingProxyType({}),
    *,
    small: bool = False,
) -> None:
    """Exactly the matrices and vectors expected, and `extra`: tensor name, dtypes and shape.

    `small`: matrices may have a unit, those of one product alike; then scales are integers, and
    `lo` may have two bits.
    """
    unseen = set(entries)
    wanted: dict[str, _Shape]
    for name, shape in expected:
        if len(shape) == 1:
            wanted = {name: (("F32",), shape)}
        elif group_size is None:
            wanted = {f"{name}.weight": (tuple(DENSE_DTYPES), shape)}
        else:
            integers = small and f"{first_of_product(name)}.unit" in entries
            wanted = _plane_tensors(name, shape[0], shape[1], group_size, integers=integers)
            wide = _wide_of(name, wide_groups)
            if wide:
                _check_wide_lo(name, entries, shape[0], wide * group_size, wanted)
            elif integers:
                _allow_pairs(name, entries, shape, wanted)
        for tensor, (dtypes, size) in wanted.items():
            if tensor.endswith((".lo", ".offset")) and tensor not in entries:
                continue
            _check_tensor(tensor, entries, dtypes, size)
            unseen.discard(tensor)
    for tensor, (dtypes, size) in extra:
        _check_tensor(tensor, entries, dtypes, size)
        unseen.discard(tensor)
    if unseen:
        raise _fault("unexpected-tensor", min(unseen), "a tensor", "none of that name")


def _gathers(manifest: Manifest) -> Iterator[tuple[str, _Shape]]:
    """Every layer's reorderings."""
    config = manifest.config
    sites = [site for site, transform in manifest.transforms.items() if transform == GATHER]
    for i in range(config.num_layers if sites else 0):
        inputs = layer_inputs(config.layer(i), config.hidden_size)
        for site in sites:
            yield f"layers.{i}.{site}.gather", (("I32",), (inputs[site],))


def _wide_of(name: str, wide_groups: Mapping[str, int]) -> int:
    """Wide groups of a matrix; the embedding and the head have none."""
    place = site_of(name)
    return wide_groups.get(place[1], 0) if place else 0


def _check_wide_lo(
    name: str,
    entries: dict[str, TensorEntry],
    rows: int,
    wide_inputs: int,
    wanted: dict[str, _Shape],
) -> None:
    """Wide groups need `lo`: of themselves alone, or of the whole matrix."""
    tensor, alone = f"{name}.lo", (rows, wide_inputs // 2)
    if tensor not in entries:
        raise _fault("missing-tensor", tensor, "no such tensor", f"one of shape {list(alone)}")
    if entries[tensor].shape == alone:
        wanted[tensor] = (("U8",), alone)


def _allow_pairs(
    name: str, entries: dict[str, TensorEntry], shape: tuple[int, ...], wanted: dict[str, _Shape]
) -> None:
    """`lo` of two bits, where there is one."""
    tensor, pairs = f"{name}.lo", (shape[0], shape[1] // 4)
    if tensor in entries and entries[tensor].shape == pairs:
        wanted[tensor] = (("U8",), pairs)


def _plane_tensors(
    name: str, rows: int, inputs: int, group: int, *, integers: bool
) -> dict[str, _Shape]:
    if inputs % group:
        raise _fault("bad-group", name, f"{inputs} inputs in groups of {group}", "whole groups")
    groups = (rows, inputs // group)
    tensors: dict[str, _Shape] = {
        f"{name}.hi": (("U8",), (rows, inputs // 2)),
        f"{name}.lo": (("U8",), (rows, inputs // 2)),
        f"{name}.scale": (("I8" if integers else "F16",), groups),
        f"{name}.offset": (("I8" if integers else "F32",), groups),
    }
    return tensors | ({f"{name}.unit": (("F32",), (rows,))} if integers else {})


def _check_tensor(
    name: str, entries: dict[str, TensorEntry], dtypes: tuple[str, ...], shape: tuple[int, ...]
) -> None:
    entry = entries.get(name)
    if entry is None:
        raise _fault("missing-tensor", name, "no such tensor", f"one of shape {list(shape)}")
    if entry.dtype not in dtypes:
        raise _fault("wrong-dtype", name, entry.dtype, " or ".join(dtypes))
    if entry.shape != shape:
        raise _fault("wrong-shape", name, list(entry.shape), list(shape))


def plane_arrays(name: str, find: Callable[[str], NDArray[Any] | None]) -> dict[str, Any]:
    """The arrays of `Planes`, None where `find` has no tensor; floats are checked."""
    arrays = {part: find(f"{name}.{part}") for part in PLANE_PARTS}
    for part, found in arrays.items():
        if found is not None and found.dtype.kind == "f":
            check_finite(f"{name}.{part}", found)
    return arrays


def check_finite(name: str, values: NDArray[Any]) -> None:
    """Refuse NaN and infinities."""
    # min and max reach NaN and both infinities without a temporary of the tensor's size
    if values.size and not (np.isfinite(values.min()) and np.isfinite(values.max())):
        raise _fault("not-finite", name, "NaN or infinity", "finite numbers")


def _fault(name: str, what: str, got: object, expected: object) -> FormatError:
    fix = "the checkpoint is damaged or incomplete: copy or convert it again"
    return FormatError(name, what, got=got, expected=expected, fix=fix)
