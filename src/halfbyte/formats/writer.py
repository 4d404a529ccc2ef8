"""Write a checkpoint aside, rename it when complete: a failure or a kill leaves no half of one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from halfbyte.config import ModelConfig
from halfbyte.errors import ArgumentError, FormatError, HalfbyteError
from halfbyte.formats.checkpoint import DENSE_DTYPES, Checkpoint
from halfbyte.formats.manifest import MANIFEST_NAME, Manifest, SiteTransform
from halfbyte.formats.names import file_of, site_of
from halfbyte.formats.partial import KeptDirectory, PartialDirectory, disk_errors, write_text
from halfbyte.formats.template_files import template_file
from halfbyte.formats.tensor_file import TensorFile, write_tensor_file
from halfbyte.formats.transforms import Gather, Rotation
from halfbyte.formats.weights import Dense, Planes

_INPUTS = "inputs.json"  # beside files that are kept: what their layers do to inputs
_PLANE_DTYPES = {np.uint8: "U8", np.int8: "I8", np.float16: "F16", np.float32: "F32"}
_DTYPE_NAMES = {ours: theirs for theirs, ours in DENSE_DTYPES.items()}


class CheckpointWriter:
    """Takes tensors in the order of `expected_tensors`; holds one file (a layer) at a time.

    with CheckpointWriter(dest) as writer:
        writer.add_matrix(name, planes); writer.add_vector(name, values); …
        writer.finish(config, …)

    Leaving the block before `finish` removes everything written, unless `keep_in` names the
    directory to write to: then files that are complete stay, and a writer that is given the
    directory again has them already.
    """

    def __init__(self, dest: Path, *, keep_in: Path | None = None) -> None:
        require_new(dest)
        self._dest = dest
        self._is_kept = keep_in is not None
        self._aside = KeptDirectory(dest, keep_in) if keep_in else PartialDirectory(dest)
        self._partial = self._aside.path
        self._pending: dict[str, tuple[str, NDArray[Any]]] = {}
        self._pending_file = ""
        self._files: dict[str, int] = {}
        self._transforms: dict[str, SiteTransform | None] = {}  # by site, alike in every layer
        self._gathers: dict[str, Gather] = {}  # of the layer being written, by tensor name
        self._wide_groups: dict[str, int] = {}  # by site, alike in every layer

    def __enter__(self) -> Self:
        with disk_errors(self._dest):
            self._aside.__enter__()
            for path in self._partial.glob("*.safetensors"):
                self._files[path.name] = path.stat().st_size
            if self._files:
                self._recall_inputs()
        return self

    def has(self, name: str) -> bool:
        """Whether the file of a tensor is complete."""
        return file_of(name) in self._files

    def drop(self, name: str) -> None:
        """Forget the file of a tensor, so that it can be written again."""
        self._files.pop(file_of(name), None)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._aside.__exit__(kind, error, trace)

    def add_matrix(self, name: str, matrix: Planes | Dense) -> None:
        """Add an [N, K] matrix; matrices that share an input share its transform."""
        self._note_input(name, matrix)
        if isinstance(matrix, Dense):
            self._add(f"{name}.weight", _DTYPE_NAMES[matrix.dtype], matrix.values)
            return
        for part, array in matrix.arrays.items():
            self._add(f"{name}.{part}", _PLANE_DTYPES[array.dtype.type], array)

    def add_ids(self, name: str, ids: NDArray[np.int32]) -> None:
        """Add a list of token ids: [n]."""
        self._add(name, "I32", ids)

    def add_vector(self, name: str, values: NDArray[np.float32]) -> None:
        """Add a bias or norm: [n]."""
        self._add(name, "F32", values)

    def finish(
        self,
        config: ModelConfig,
        *,
        group_size: int | None,
        head_bits: dict[int, int],
        source: Mapping[str, Any],
        tokenizer_json: str | None = None,
        tokenizer_info: Mapping[str, Any] | None = None,
        chat_template: str | None = None,
        named_templates: Mapping[str, str] | None = None,
    ) -> Path:
        """Write the manifest last, then rename; `group_size` None marks a dense checkpoint."""
        self.flush()
        manifest = Manifest(
            config=config,
            group_size=group_size,
            weights="dense" if group_size is None else "planes",
            head_bits=head_bits,
            files=dict(sorted(self._files.items())),
            source=dict(source),
            tokenizer=dict(tokenizer_info or {}),
            transforms={site: t for site, t in self._transforms.items() if t is not None},
            wide_groups=self._wide_groups,
            small=self._has_units(),
        )
        texts = {"tokenizer.json": tokenizer_json, "chat_template.jinja": chat_template}
        for template, text in (named_templates or {}).items():
            texts[template_file(template)] = text
        return self.publish(MANIFEST_NAME, lambda _: manifest.to_json(), Checkpoint.open, texts)

    def publish(
        self,
        name: str,
        manifest: Callable[[dict[str, int]], str],
        opened: Callable[[Path], object],
        texts: Mapping[str, str | None] | None = None,
    ) -> Path:
        """Write `texts`, then the manifest, made from file names and sizes; rename what opens.

        `opened` opens what was written, so that nothing is published that cannot be read.
        """
        self.flush()
        written = {**(texts or {}), name: manifest(self._files)}
        with disk_errors(self._dest):
            for file, text in written.items():
                if text is not None:
                    (self._partial / file).parent.mkdir(exist_ok=True)
                    write_text(self._partial / file, text)
            self._check(opened)
            (self._partial / _INPUTS).unlink(missing_ok=True)
            self._aside.publish()
        return self._dest

    def _check(self, opened: Callable[[Path], object]) -> None:
        try:
            opened(self._partial)
        except FormatError as error:
            raise HalfbyteError(
                f"what was written of {self._dest}",
                got=f"{error.what}, {error.got}",
                expected=f"a checkpoint that opens ({error.expected})",
                fix="this is a fault of halfbyte or of the disk: report it with the model's name",
            ) from error

    def _has_units(self) -> bool:
        """Whether a matrix has one, in files that an earlier run wrote too."""
        files = (TensorFile.open(self._partial / name) for name in self._files)
        return any(tensor.endswith(".unit") for file in files for tensor in file.entries)

    def _keep_inputs(self) -> None:
        """Note down what the manifest will say of inputs, for a writer that has the files only."""
        if not self._is_kept or (self._partial / _INPUTS).exists() or not self._wide_groups:
            return
        noted = {
            site: asdict(t) if isinstance(t, Rotation) else t
            for site, t in self._transforms.items()
        }
        aside = self._partial / f"{_INPUTS}.aside"
        text = json.dumps({"transforms": noted, "wide_groups": self._wide_groups})
        aside.write_text(text, encoding="utf-8")
        aside.rename(self._partial / _INPUTS)

    def _recall_inputs(self) -> None:
        path = self._partial / _INPUTS
        if not path.exists():
            return
        try:
            noted = json.loads(path.read_text(encoding="utf-8"))
            self._transforms = {
                site: Rotation(**t) if isinstance(t, dict) else t
                for site, t in noted["transforms"].items()
            }
            self._wide_groups = dict(noted["wide_groups"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise HalfbyteError(
                f"half-written checkpoint {self._partial}",
                got=f"{_INPUTS}: {error}",
                expected="what an earlier run wrote",
                fix="remove it and begin again",
            ) from error

    def _note_input(self, name: str, matrix: Planes | Dense) -> None:
        place = site_of(name)
        if place is None:
            if matrix.transform is not None:
                raise ValueError(f"{name} takes no transform")
            return
        layer, site = place
        transform = matrix.transform
        noted: SiteTransform | None = "gather" if isinstance(transform, Gather) else transform
        if self._transforms.setdefault(site, noted) != noted:
            raise ValueError(f"{name} has another transform than the {site} before it")
        if isinstance(transform, Gather):
            tensor = f"{layer}.{site}.gather"
            if tensor in self._pending and self._gathers[tensor] != transform:
                raise ValueError(f"{name} is reordered unlike the matrix that shares its input")
            self._gathers = {tensor: transform}
            self._add(tensor, "I32", transform.indices)
        wide = matrix.wide_groups if isinstance(matrix, Planes) else 0
        if self._wide_groups.setdefault(site, wide) != wide:
            raise ValueError(f"{name} has another number of wide groups than the {site} before it")

    def _add(self, name: str, dtype: str, array: NDArray[Any]) -> None:
        file = file_of(name)
        if file != self._pending_file:
            self.flush()
            if file in self._files:
                raise ValueError(f"{name} comes after {file} was written")
            self._pending_file = file
        self._pending[name] = (dtype, array)

    def flush(self) -> None:
        """Complete the file being written; its tensors need not be held any longer."""
        if self._pending:
            aside = self._partial / f"{self._pending_file}.aside"
            with disk_errors(self._dest):
                self._keep_inputs()
                size = write_tensor_file(aside, self._pending)
                aside.rename(self._partial / self._pending_file)
                self._aside.renew()
            self._files[self._pending_file] = size
        self._pending = {}


def require_new(dest: Path) -> None:
    """Raise ArgumentError if the destination of a checkpoint is taken."""
    with disk_errors(dest):
        taken = dest.exists() or dest.is_symlink()
    if taken:
        fix = "choose another destination or remove it"
        raise ArgumentError("destination", got=f"{dest} (exists)", expected="a new path", fix=fix)
