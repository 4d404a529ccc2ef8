"""What a level of a draft head's tree takes here: a first guess, which decoding corrects."""

from __future__ import annotations

from time import perf_counter

import numpy as np

from halfbyte.runtime.draft_head import DraftHead
from halfbyte.runtime.protocol import Batch

ROWS = 4  # a middling level of a small tree
CHILDREN = 8
TIMES = 7


def level_seconds(head: DraftHead) -> float:
    """One forward of `ROWS` rows, in scratch pages; a low quantile, since noise only adds time."""
    rows = min(ROWS, head.max_rows, head.page_size)
    batch = Batch(
        np.zeros(rows, dtype=np.int32),
        np.array([0, rows], dtype=np.int32),
        np.zeros(1, dtype=np.int32),
        np.array([[head.scratch_pages.start]], dtype=np.int32),
    )
    features = np.zeros((rows, head.config.model.hidden_size), dtype=np.float32)
    every = np.arange(rows, dtype=np.int32)
    seconds = []
    for _ in range(TIMES):
        began = perf_counter()
        head.forward(batch, head.level, features, every, CHILDREN)
        seconds.append(perf_counter() - began)
    return float(np.quantile(seconds, 0.25))
