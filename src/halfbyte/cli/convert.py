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

    A source whose grid fits (Q4_0, Q4_1, Q8_0) is imported exactly. An 8-plane checkpoint of a
    4-bit source is re-quantized off its grid, so that draft and target differ.
    """
    from halfbyte.formats.checkpoint import Checkpoint
    from halfbyte.importers.convert import convert as run
    from halfbyte.importers.resolve import locate

    with conversion_progress() as progress:
        path = run(locate(src), dest, planes, group, progress)
    checkpoint = Checkpoint.open(path)
    note(f"wrote {path}: {gigabytes(checkpoint.num_bytes)}")
    if remark := checkpoint.source.get("note"):
        note(str(remark))
