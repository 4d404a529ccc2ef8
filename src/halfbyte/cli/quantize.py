"""`halfbyte quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional, cast

import typer

from halfbyte.cli.options import Threads
from halfbyte.cli.output import conversion_progress, gigabytes, note

if TYPE_CHECKING:
    from halfbyte.quantize.scales import ScaleForm


def quantize(
    src: Annotated[
        str, typer.Argument(metavar="SRC", help="GGUF file, Hugging Face directory or hub id.")
    ],
    dest: Annotated[
        Path, typer.Argument(metavar="DEST", help="New checkpoint directory; must not exist.")
    ],
    scheme: Annotated[str, typer.Option(help="How weights are rounded; see docs/quantize.md.")] = (
        "gptq"
    ),
    planes: Annotated[int, typer.Option(help="8: levels of 4 and 8 bits; 4: of 4 bits only.")] = 8,
    group: Annotated[int, typer.Option(help="Inputs per scale: 32, 64 or 128.")] = 32,
    scales: Annotated[
        str,
        typer.Option(
            help="How scales are stored: int8+offset, f16 (as many bits, and further from the"
            " weights), or int8 (a quarter of a bit less per weight, and as near as f16)."
        ),
    ] = "int8+offset",
    wide: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            help="Share of every row's inputs that keep 8 bits at every level.  "
            "[default: for gptq with --planes 4, 0.22 or, of models 1024 wide, 0.0655; else 0]"
        ),
    ] = None,
    calibration: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Text file to calibrate on.  [default: text the model itself writes]"),
    ] = None,
    tokens: Annotated[int, typer.Option(help="Calibration tokens.")] = 16_384,
    sequence: Annotated[int, typer.Option(help="Tokens of a calibration sequence.")] = 512,
    seed: Annotated[int, typer.Option(help="Seed of the text that the model writes.")] = 0,
    threads: Threads = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Discard what an interrupted run has left.")
    ] = False,
) -> None:
    """Quantize a model with a scheme, calibrated layer by layer.

    A run that was interrupted goes on where it stopped when the same command is given again.
    """
    from halfbyte.calibration.quantize import QuantizeOptions
    from halfbyte.calibration.quantize import quantize as run
    from halfbyte.calibration.text import Amount
    from halfbyte.formats.checkpoint import Checkpoint

    options = QuantizeOptions(
        scheme,
        planes,
        group,
        cast("ScaleForm", scales),
        wide,
        calibration,
        Amount(tokens, sequence),
        seed,
        threads,
    )
    with conversion_progress("quantizing") as progress:
        path = run(src, dest, options, restart=restart, progress=progress, tell=note)
    checkpoint = Checkpoint.open(path)
    note(f"wrote {path}: {gigabytes(checkpoint.num_bytes)}")
    if remark := checkpoint.source.get("note"):
        note(str(remark))
