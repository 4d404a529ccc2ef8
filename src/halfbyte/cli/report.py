"""`halfbyte report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from halfbyte.cli.output import note
from halfbyte.errors import SourceError


def report(
    rows: Annotated[
        list[Path],
        typer.Argument(metavar="ROWS…", help="Files of rows that halfbyte eval wrote."),
    ],
    plots: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Also draw PNG files into this directory (extra [eval])."),
    ] = None,
) -> None:
    """Turn result rows into markdown tables on stdout, and plots."""
    from halfbyte.evaluate import result_rows, tables

    found = [row for path in rows for row in result_rows.read(path)]
    if not found:
        raise SourceError(
            ", ".join(path.name for path in rows),
            got="no rows",
            expected="rows that halfbyte eval wrote",
            fix="name a rows.jsonl of halfbyte eval",
        )
    print(tables.report(found))
    if plots is not None:
        from halfbyte.evaluate.plots import write_plots

        for path in write_plots(found, plots):
            note(f"wrote {path}")
