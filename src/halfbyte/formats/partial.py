"""What is not complete yet lies beside its destination, with one owner, and never for ever.

    .DEST.0123456789abcdef.partial/
      owner     locked while its process lives; names the boot it lives in; touched as work goes on

Names are drawn: process ids repeat, in containers from the first. A directory is abandoned, and
removed by the next owner of the same destination, if its lock is free and either its owner lived in
this very boot of the machine, where a lock tells the truth, or its lease has run out: locks of
other machines on a shared disk may not be seen.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from halfbyte.errors import HalfbyteError, reraise_machine_fault, told

LEASE_SECONDS: Final = 3600.0  # the longest between two signs of life: a layer takes minutes
_OWNER = "owner"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_MAX_NAME_BYTES = 200  # of 255 that file systems allow


class PartialDirectory:
    """Made on entering; removed on leaving, unless it was published. Raises OSError."""

    def __init__(self, dest: Path) -> None:
        self._dest = dest
        self.path = _drawn(dest)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._dest.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(self._dest)
        self.path.mkdir()
        with contextlib.ExitStack() as stack:
            stack.callback(shutil.rmtree, self.path, ignore_errors=True)
            file = stack.enter_context((self.path / _OWNER).open("w", encoding="ascii"))
            if locked(file.fileno()):  # else the lease alone speaks for the owner
                file.write(_boot())
                file.flush()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()  # after `publish` there is nothing left to remove

    def renew(self) -> None:
        """A sign of life."""
        with contextlib.suppress(OSError):
            os.utime(self.path / _OWNER)

    def publish(self) -> None:
        """Rename the directory to its destination."""
        (self.path / _OWNER).unlink()
        _publish(self.path, self._dest)


class KeptDirectory:
    """One that another run may take up: the caller sees to it that there is one owner."""

    def __init__(self, dest: Path, path: Path) -> None:
        self._dest = dest
        self.path = path

    def __enter__(self) -> Self:
        self._dest.parent.mkdir(parents=True, exist_ok=True)
        self.path.mkdir(exist_ok=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def renew(self) -> None:
        """Needs no sign of life."""

    def publish(self) -> None:
        """Rename the directory to its destination."""
        _publish(self.path, self._dest)


def _publish(path: Path, dest: Path) -> None:
    sync_directory(path)
    path.rename(dest)
    sync_directory(dest.parent)


@contextlib.contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A name to write one file to, which is renamed to `path` unless the block fails."""
    remove_abandoned(path)
    aside = _drawn(path)
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write a .npy file; numpy's own writer does not say what the system said where it fails."""
    values = np.ascontiguousarray(array)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(values))
        file.write(values.data)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 and see it on the disk."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """See the names in a directory on the disk, where the file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def disk_errors(dest: Path) -> Iterator[None]:
    """An OSError while writing `dest` -> HalfbyteError."""
    try:
        yield
    except OSError as error:
        reraise_machine_fault(f"writing {dest}", error)
        raise HalfbyteError(
            f"writing {dest}",
            got=told(error),
            expected="a writable directory with enough space",
            fix="check the path, its permissions and the free space",
        ) from error


def remove(directory: Path) -> None:
    """Take a directory out of its place at once, then remove it."""
    aside = _drawn(directory)
    with disk_errors(directory), contextlib.suppress(FileNotFoundError):
        directory.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def remove_abandoned(dest: Path) -> None:
    """Remove what killed owners of the same destination left."""
    pattern = re.compile(rf"\.{re.escape(_stem(dest))}\.([0-9a-f]{{16}}|[0-9]+)\.partial")
    try:
        found = [entry for entry in dest.parent.iterdir() if pattern.fullmatch(entry.name)]
    except OSError:
        return
    for entry in found:
        with contextlib.suppress(OSError):
            if not entry.is_dir():
                if _lease_is_over(entry):
                    entry.unlink()
            elif not (entry / _OWNER).exists():  # just made, being published or of an old version
                if _lease_is_over(entry):
                    shutil.rmtree(entry, ignore_errors=True)
            else:
                _remove_if_free(entry)


def _remove_if_free(directory: Path) -> None:
    with (directory / _OWNER).open("r+", encoding="ascii", errors="replace") as file:
        ours = locked(file.fileno())
        if ours is False:
            return
        if (ours and file.read(256) == _boot()) or _lease_is_over(directory / _OWNER):
            shutil.rmtree(directory, ignore_errors=True)


def locked(descriptor: int) -> bool | None:
    """Whether the lock of an open file is ours now; None where the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _lease_is_over(path: Path) -> bool:
    return time.time() - path.stat().st_mtime > LEASE_SECONDS


def _boot() -> str:
    """Names this machine, since it was started where that can be told."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return platform.node()


def _drawn(dest: Path) -> Path:
    return dest.with_name(f".{_stem(dest)}.{secrets.token_hex(8)}.partial")


def _stem(dest: Path) -> str:
    """The name, or for one too long to grow a digest of it."""
    raw = os.fsencode(dest.name)
    return dest.name if len(raw) <= _MAX_NAME_BYTES else hashlib.sha256(raw).hexdigest()[:32]
