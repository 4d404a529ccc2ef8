"""What proposed each token of a choice, for requests with `return_fates`."""

from __future__ import annotations

from typing import Any

from halfbyte.api.results import Chunk
from halfbyte.server.generation import statistics


class Speculation:
    """Takes chunks; tells the fates of one, or of all of them."""

    def __init__(self) -> None:
        self.whole: dict[str, Any] = {"pieces": [], "fates": []}

    def take(self, chunk: Chunk, cascade: str) -> dict[str, Any]:
        """The chunk's own; the last one's has the statistics too."""
        fates = [str(fate) for fate in chunk.fates]
        told: dict[str, Any] = {"pieces": chunk.pieces, "fates": fates}
        if chunk.completion is not None:
            told["statistics"] = statistics(cascade, chunk)
            self.whole["statistics"] = told["statistics"]
        self.whole["pieces"] += chunk.pieces
        self.whole["fates"] += fates
        return told
