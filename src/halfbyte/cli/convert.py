"""`halfbyte convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from halfbyte.cli.options import Group, Planes
from halfbyte.cli.output import conversion_progress, gigabytes, note


def convert(
    src: Annotated[
        str, typer.Argument(metavar="SRC", help="GGUF file, Hugging Face directory or hub id.")
    ],
    dest: Annotated[
        Path, typer.Argument(metavar="DEST", help="New checkpoint directory; must not exist.")
    ],
    planes: Planes = None,
    group: Group = None,
) -> None:
    """Convert a model into a checkpoint of nested planes.

    A source whose grid fits (Q4_0, Q4_1, Q8_0, IQ4_NL …) is imported exactly. An 8-plane checkpoint
    of a 4-bit source is re-quantized off its grid, so that draft and target differ. SRC may also be
    the directory of an EAGLE draft head, for cascades such as 'eagle:DEST > w8a16'.
    """
    from halfbyte.formats.checkpoint import Checkpoint
    from halfbyte.importers.convert import convert as run
    from halfbyte.importers.eagle_source import is_head
    from halfbyte.importers.resolve import locate

    found = locate(src)
    if is_head(found):
        _convert_head(found, dest, planes, group)
        return
    with conversion_progress() as progress:
        path = run(found, dest, planes, group, progress)
    checkpoint = Checkpoint.open(path)
    note(f"wrote {path}: {gigabytes(checkpoint.num_bytes)}")
    if remark := checkpoint.source.get("note"):
        note(str(remark))


def _convert_head(src: Path, dest: Path, planes: int | None, group: int | None) -> None:
    from halfbyte.formats.draft_head import HeadCheckpoint
    from halfbyte.importers.convert_head import write_head
    from halfbyte.importers.eagle_source import EagleSource

    source = EagleSource(src)
    path = write_head(
        source, dest, planes=planes or 8, group=group or 32, source=source.description
    )
    head = HeadCheckpoint.open(path)
    note(f"wrote {path}: a draft head of kind {head.config.kind}, {gigabytes(head.num_bytes)}")
