"""What a user may name as a model -> an opened checkpoint or source.

A checkpoint directory is used as it is. A GGUF file, a Hugging Face directory, a hub id or an alias
is converted once into the cache; the `f32` level reads it directly.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from halfbyte.errors import (
    ArgumentError,
    FormatError,
    HalfbyteError,
    SourceError,
    reraise_machine_fault,
    told,
)
from halfbyte.formats.checkpoint import Checkpoint
from halfbyte.formats.manifest import MANIFEST_NAME
from halfbyte.formats.partial import remove
from halfbyte.importers.cache import cache_errors, cached_checkpoint, expanded
from halfbyte.importers.convert import Progress, convert, open_source
from halfbyte.importers.demo_model import ALIAS, demo_model
from halfbyte.importers.hub import fetch_snapshot, is_hub_id
from halfbyte.importers.source import Source

ALIAS_PLANES = 8  # the demo shows the nested pair, which needs `lo`


def resolve(
    ckpt: str | Path,
    planes: int | None = None,
    group: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """The checkpoint directory of `ckpt`, converted on first use."""
    found = locate(ckpt)
    if is_checkpoint(found):
        if planes is not None or group is not None:
            fix = "leave --planes and --group out, or name the model it was made of"
            raise ArgumentError(
                "model", got=f"{ckpt} (a checkpoint)", expected="a model to convert", fix=fix
            )
        return found
    if planes is None and str(ckpt) == ALIAS:
        planes = ALIAS_PLANES
    dest = cached_checkpoint(found, planes, group)
    if is_checkpoint(dest) and not _discarded(dest):
        return dest
    with cache_errors():
        dest.parent.mkdir(parents=True, exist_ok=True)
    try:
        return convert(open_source(found), dest, planes, group, progress)
    except HalfbyteError:
        if is_checkpoint(dest):  # another process was faster
            return dest
        raise


def _discarded(cached: Path) -> bool:
    """Whether a cached checkpoint was damaged and is gone: its source can make it again."""
    try:
        Checkpoint.open(cached)
    except FormatError as error:
        if error.name == "bad-version":  # of a newer halfbyte, which goes on using it
            return False
        remove(cached)
        return True
    return False


def open_weights(
    ckpt: str | Path,
    *,
    dense: bool = False,
    planes: int | None = None,
    group: int | None = None,
    progress: Progress | None = None,
) -> Checkpoint | Source:
    """`dense`: the weights of the `f32` level, straight from the source; otherwise a checkpoint."""
    if not dense:
        return Checkpoint.open(resolve(ckpt, planes, group, progress))
    found = locate(ckpt)
    if not is_checkpoint(found):
        return open_source(found)
    checkpoint = Checkpoint.open(found)
    if checkpoint.weights != "dense":
        fix = "name the model it was made of (a GGUF file, a Hugging Face directory or an alias)"
        raise ArgumentError(
            "level f32", got=f"{ckpt} (a quantized checkpoint)", expected="dense weights", fix=fix
        )
    return checkpoint


def is_checkpoint(path: Path) -> bool:
    """Whether a directory claims to be a checkpoint."""
    return (path / MANIFEST_NAME).is_file()


def locate(ckpt: str | Path) -> Path:
    """The path `ckpt` stands for; an existing path wins, an alias or hub id is fetched."""
    path = expanded(ckpt)
    try:
        is_directory = path.is_dir()
        if is_directory:
            is_checkpoint(path)  # fails here if the directory may not be searched
        if is_directory or path.is_file():
            return path
    except OSError as error:  # such as a name too long
        reraise_machine_fault(f"model {ckpt}", error)
        fix = "check the path and its permissions"
        raise SourceError(
            f"model {ckpt}", got=told(error), expected="a readable path", fix=fix
        ) from error
    if str(ckpt) == ALIAS:
        return demo_model()
    if is_hub_id(str(ckpt)) and path.suffix != ".gguf":
        return fetch_snapshot(str(ckpt))
    raise _no_model(str(ckpt), path)


def _no_model(asked: str, path: Path) -> ArgumentError:
    """Says where a model was looked for, what is like it there, and how to get one."""
    fix = (
        "name a path, or a model of the Hugging Face hub to download, such as "
        f"Qwen/Qwen2.5-0.5B-Instruct, or {ALIAS}, the demo model"
    )
    where = path.parent
    try:
        where = path.absolute().parent
        near = difflib.get_close_matches(path.name, os.listdir(where)[:10_000], n=1)
    except (OSError, ValueError):
        near = []
    if near:
        fix = f"did you mean {path.with_name(near[0])}? or {fix}"
    return ArgumentError(
        "model",
        got=f"{asked!r}, which is not in {where}",
        expected=f"a checkpoint, a GGUF file, a Hugging Face directory, a hub id or {ALIAS}",
        fix=fix,
    )
