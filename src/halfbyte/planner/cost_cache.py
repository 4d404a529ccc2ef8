"""Cost tables on disk: one small JSON file for a model, a machine and what a cascade needs."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable
from collections.abc import Sequence as Seq
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from halfbyte.config import Level, model_values
from halfbyte.planner.cost_table import CostTable
from halfbyte.runtime.protocol import Runtime

TABLE_VERSION = 4  # grows when what is measured changes
KEPT_SPREAD = 1.25  # a table whose times vary more was measured on a busy machine
MAX_FILE_BYTES = 1 << 20
REMEASURE_VARIABLE = "HALFBYTE_REMEASURE"


def table_path(directory: Path, runtime: Runtime, target: Level, drafts: Seq[Level]) -> Path:
    """Where the table is kept: all that a forward's time depends on decides the name."""
    levels = [target, *drafts]
    facts = {
        "version": TABLE_VERSION,
        "config": model_values(runtime.config),
        "bytes": {str(level): runtime.weight_bytes(level) for level in levels},
        "page_size": runtime.page_size,
        "num_pages": runtime.num_pages,
        "max_rows": runtime.max_rows,
        "target": str(target),
        "runtime": runtime.speed_key,
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]
    return directory / "costs" / f"{digest}.json"


def load_or_measure(
    path: Path, levels: Seq[Level], measure: Callable[[], CostTable], *, again: bool = False
) -> CostTable:
    """The table at `path`, or a new one, kept there for the next start.

    `again` (or HALFBYTE_REMEASURE=1) measures in any case; so does a file that cannot be used. A
    table of a busy machine serves this process only.
    """
    if not again and os.environ.get(REMEASURE_VARIABLE, "") in ("", "0"):
        table = read(path)
        if table is not None and all(str(level) in table.linear for level in levels):
            return table
    table = measure()
    if table.spread <= KEPT_SPREAD:
        write(path, table)
    return table


def read(path: Path) -> CostTable | None:
    """A table, or None where there is none that can be used."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            return None
        return CostTable.from_dict(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def write(path: Path, table: CostTable) -> None:
    """Keep a table; a directory that cannot be written to only costs the next start a second."""
    aside = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            aside.write_text(json.dumps(asdict(table), allow_nan=False), encoding="utf-8")
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
