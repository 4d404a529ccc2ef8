"""What a quantization run keeps beside its destination, so that it can be taken up after a kill.

    .DEST.quantizing/
      settings.json          what the run was asked for; another run must ask for the same
      lock                   held while a run is at work
      tokens.npy             the calibration text [S, L], once it is known
      residual-NNN.npy       the residual stream [S, L, hidden] that layer NNN reads
      checkpoint/            files that are complete; renamed to DEST at the end

A file is written aside and renamed, so one that is there is whole. The files of layer N are written
before residual N + 1: the newest residual says where to go on.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from halfbyte.errors import ArgumentError, HalfbyteError, reraise_machine_fault
from halfbyte.formats.partial import disk_errors, locked, write_array
from halfbyte.formats.writer import require_new

MAX_SETTINGS_BYTES = 1 << 20


class WorkDirectory:
    """Entered by one run at a time; left behind unless `remove` was called."""

    def __init__(self, dest: Path, settings: Mapping[str, Any], *, restart: bool) -> None:
        require_new(dest)
        self._dest = dest
        self.path = dest.with_name(f".{dest.name}.quantizing")
        self._settings = json.dumps(settings, indent=1, sort_keys=True) + "\n"
        self._restart = restart
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack, disk_errors(self._dest):
            self._dest.parent.mkdir(parents=True, exist_ok=True)
            self.path.mkdir(exist_ok=True)
            self._lock(stack)
            if self._restart:
                self._clear()
            self._check_settings()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def checkpoint(self) -> Path:
        """Where the writer keeps its files."""
        return self.path / "checkpoint"

    def tokens(self) -> NDArray[np.int32] | None:
        """The calibration text, if an earlier run got so far."""
        path = self.path / "tokens.npy"
        return self._load(path) if path.exists() else None

    def keep_tokens(self, tokens: NDArray[np.int32]) -> None:
        """Write the calibration text down."""
        self._save(self.path / "tokens.npy", tokens)

    def residual(self) -> tuple[int, NDArray[np.float32]] | None:
        """The newest residual stream and the layer that reads it."""
        found = sorted(self.path.glob("residual-*.npy"))
        if not found:
            return None
        return int(found[-1].stem.removeprefix("residual-")), self._load(found[-1])

    def keep_residual(self, layer: int, residual: NDArray[np.float32]) -> None:
        """Write down what `layer` reads; what earlier ones read is not needed any more."""
        self._save(self._residual(layer), residual)
        self._residual(layer - 1).unlink(missing_ok=True)

    def remove(self) -> None:
        """The run is complete."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _residual(self, layer: int) -> Path:
        return self.path / f"residual-{layer:06d}.npy"

    def _lock(self, stack: contextlib.ExitStack) -> None:
        lock = self.path / "lock"
        file = stack.enter_context(lock.open("w"))
        if locked(file.fileno()) is not False and _is_at(file.fileno(), lock):
            return
        raise HalfbyteError(
            f"quantizing {self._dest}",
            got="another run at work on it",
            expected="one at a time",
            fix="wait for it, or choose another destination",
        )

    def _clear(self) -> None:
        for path in self.path.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "lock":
                path.unlink()

    def _check_settings(self) -> None:
        path = self.path / "settings.json"
        if not path.exists():
            aside = path.with_suffix(".aside")
            aside.write_text(self._settings, encoding="utf-8")
            aside.rename(path)
            return
        with path.open("rb") as file:
            have = file.read(MAX_SETTINGS_BYTES)
        if have == self._settings.encode():
            return
        raise ArgumentError(
            f"half-finished run in {self.path}",
            got=f"other settings ({_difference(have, self._settings)})",
            expected="those it was begun with",
            fix="repeat them to go on, or give --restart to begin again",
        )

    def _save(self, path: Path, array: NDArray[Any]) -> None:
        aside = path.with_suffix(".aside")
        with disk_errors(self._dest):
            write_array(aside, array)
            aside.rename(path)

    def _load(self, path: Path) -> NDArray[Any]:
        try:
            array: NDArray[Any] = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            reraise_machine_fault(f"half-finished run in {self.path}", error)
            raise HalfbyteError(
                f"half-finished run in {self.path}",
                got=f"{path.name}: {error}",
                expected="what an earlier run wrote",
                fix="give --restart to begin again",
            ) from error
        return array


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the path still names the open file: a run that ends removes its lock."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _difference(have: bytes, wanted: str) -> str:
    """Names of the settings that differ."""
    try:
        old, new = json.loads(have), json.loads(wanted)
        return ", ".join(sorted(k for k in {*old, *new} if old.get(k) != new.get(k)))
    except (ValueError, AttributeError, TypeError):
        return "settings.json cannot be read"
