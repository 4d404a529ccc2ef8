"""Features of texts as the served runtime makes them, kept on disk: one file a text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halfbyte.api.loading import LoadedModel
from halfbyte.config import Level
from halfbyte.engine.pages import PageTable
from halfbyte.errors import ArgumentError
from halfbyte.formats.partial import write_array, written_aside
from halfbyte.runtime.protocol import Batch
from halfbyte.train.texts import Text

F16 = NDArray[np.float16]


def save_features(
    model: LoadedModel, level: Level, taps: tuple[int, ...], text: Text, path: Path
) -> None:
    """Run a text at `level` and write its features [n, taps * hidden] as f16, renamed when whole.

    The served head reads float32; half precision is far finer than what training can fit.
    """
    values = read_features(model, level, taps, text.tokens)
    largest = float(np.finfo(np.float16).max)
    with written_aside(path) as aside:
        write_array(aside, np.clip(values, -largest, largest).astype(np.float16))


def read_features(
    model: LoadedModel, level: Level, taps: tuple[int, ...], tokens: list[int]
) -> NDArray[np.float32]:
    """Features [n, taps * hidden] of a text, on pages borrowed from the model's pool."""
    runtime = model.runtime
    runtime.keep_features(taps)
    table = PageTable(model.pool, len(tokens))
    if not table.can_grow(len(tokens)):
        raise ArgumentError(
            "KV pool",
            got=f"{model.pool.num_free} free pages",
            expected=f"room for a text of {len(tokens)} tokens",
            fix="generate shorter texts",
        )
    table.grow(len(tokens))
    try:
        for first in range(0, len(tokens), runtime.max_rows):
            rows = np.array(tokens[first : first + runtime.max_rows], dtype=np.int32)
            starts = np.array([0, len(rows)], dtype=np.int32)
            at = np.array([first], dtype=np.int32)
            batch = Batch(rows, starts, at, table.row[None])
            runtime.forward(batch, level, np.empty(0, dtype=np.int32))
        return runtime.read_features(table.row, np.arange(len(tokens), dtype=np.int32))
    finally:
        table.shrink(0)


def load_features(path: Path) -> F16:
    """[n, taps * hidden]."""
    values: F16 = np.load(path, allow_pickle=False)
    return values
