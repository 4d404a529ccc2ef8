"""What changes one sequence's logits row by row: penalties, biases, what a grammar allows.

Every row of a verify sees the text of its own prefix, proposals before it included. So a row has
the logits that plain decoding would have there, and the output does not depend on speculation.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from halfbyte.runtime.protocol import Adjustments


@dataclass(frozen=True, slots=True)
class Changes:
    """Of one row; see `runtime.protocol.Adjustments`."""

    ids: NDArray[np.int32]  # [E], no id twice
    adds: NDArray[np.float32]
    factors: NDArray[np.float32]
    subtracts: NDArray[np.float32]
    mask: NDArray[np.uint32] | None = None  # [ceil(V / 32)]; None: every token is allowed


class Shaper(Protocol):
    """Follows the text of one sequence up to its pending token."""

    def admit(self, proposed: Seq[int]) -> int:
        """How many of these tokens, from the first on, could be emitted at all."""

    def changes(self, proposed: Seq[int]) -> list[Changes]:
        """Of the row after the pending token and after each of the (admitted) proposals."""


def adjustments_of(changes: Seq[Changes | None]) -> Adjustments | None:
    """The changes of R rows as arrays; None where no row has any."""
    if not any(changes):
        return None
    rows = [_NONE if c is None else c for c in changes]
    masks: list[NDArray[np.uint32]] = [c.mask for c in rows if c.mask is not None]
    mask_rows = np.full(len(rows), -1, dtype=np.int32)
    mask_rows[[i for i, c in enumerate(rows) if c.mask is not None]] = np.arange(len(masks))
    return Adjustments(
        starts=np.cumsum([0, *(len(c.ids) for c in rows)]).astype(np.int32),
        ids=np.concatenate([c.ids for c in rows]),
        adds=np.concatenate([c.adds for c in rows]),
        factors=np.concatenate([c.factors for c in rows]),
        subtracts=np.concatenate([c.subtracts for c in rows]),
        mask_rows=mask_rows,
        masks=np.stack(masks) if masks else np.empty((0, 0), dtype=np.uint32),
    )


_FLOATS = np.empty(0, dtype=np.float32)
_NONE = Changes(np.empty(0, dtype=np.int32), _FLOATS, _FLOATS, _FLOATS)
