"""Where converted and downloaded models are kept."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from halfbyte.errors import SourceError, reraise_machine_fault, told
from halfbyte.importers.gguf_parts import part_paths

_SAMPLE_BYTES = 1 << 20
# Part of every key: the recipe grows when conversion changes its result, so that old entries are
# left alone. "format 1" is no format version: it stays so that the entries there are found.
_RECIPE = "format 1 recipe 3"


def cache_directory() -> Path:
    """HALFBYTE_CACHE, else the user's cache directory (XDG_CACHE_HOME or ~/.cache).

    Raises SourceError where that is in the home of a user who has none.
    """
    chosen = os.environ.get("HALFBYTE_CACHE")
    base = chosen or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "halfbyte")
    path = os.path.expanduser(base)
    if path.startswith("~"):
        raise SourceError(
            "cache directory",
            got=f"{base}, and no such home directory",
            expected="a directory to keep models in",
            fix="set HALFBYTE_CACHE to one",
        )
    return Path(path)


@contextmanager
def cache_errors() -> Iterator[None]:
    """An OSError in the cache -> an error that says how to have it elsewhere."""
    try:
        yield
    except OSError as error:
        what = f"cache {cache_directory()}"
        reraise_machine_fault(what, error)
        fix = "check its permissions, or set HALFBYTE_CACHE to another directory"
        expected = "a writable cache directory"
        raise SourceError(what, got=told(error), expected=expected, fix=fix) from error


def expanded(path: str | Path) -> Path:
    """The path with `~` and `~user` spelt out; as it is where there is no such home."""
    return Path(os.path.expanduser(path))


def cached_checkpoint(source: Path, planes: int | None, group: int | None) -> Path:
    """Where the checkpoint of a model file or directory is, or would be."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", source.name if source.is_dir() else source.stem)[:80]
    kind = f"{planes or 'auto'}p-g{group or 'auto'}"
    identity = f"{source_identity(source)} {kind} {_RECIPE}"
    digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
    return cache_directory() / "checkpoints" / f"{stem.lstrip('.')}-{kind}-{digest}"


def source_identity(source: Path) -> str:
    """What changes when a model does: sizes, times and samples of its file or files."""
    try:
        if not source.is_dir():
            return "\n".join(_file_identity(path) for path in part_paths(source))
        files = [*source.glob("*.json"), *source.glob("*.safetensors"), *source.glob("*.jinja")]
        return "\n".join(f"{path.name} {_file_identity(path)}" for path in sorted(files))
    except OSError as error:
        fix = "check the path and its permissions"
        what, expected = f"model {source.name}", "a readable file"
        reraise_machine_fault(what, error)
        raise SourceError(what, got=told(error), expected=expected, fix=fix) from error


def _file_identity(path: Path) -> str:
    """Size, time and two samples: the head has the metadata, the tail the last weights."""
    status = path.stat()
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(_SAMPLE_BYTES))
        file.seek(max(0, status.st_size - _SAMPLE_BYTES))
        digest.update(file.read(_SAMPLE_BYTES))
    return f"{status.st_size} {status.st_mtime_ns} {digest.hexdigest()}"
