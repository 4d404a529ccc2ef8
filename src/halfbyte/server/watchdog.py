"""Sees from outside when a step does not end: in the log, as a metric, and as a 503 on /health.

It cannot make the engine go on; the operator can start another one.
"""

from __future__ import annotations

import asyncio
import logging

from halfbyte.api.async_engine import AsyncEngine
from halfbyte.server.log import log

PATIENCE_SECONDS = 60.0  # a step takes milliseconds, on the smallest machines seconds
LOOKS = 12  # in that time


class Watchdog:
    """Looks at one engine, on its event loop."""

    def __init__(self, engine: AsyncEngine, patience: float = PATIENCE_SECONDS) -> None:
        self.num_stalls = 0  # so far
        self._engine = engine
        self._patience = patience
        self._told_at = 0.0  # how long it had stood still when the log was last told; 0: it goes

    @property
    def is_alarmed(self) -> bool:
        """Whether requests wait for a step that does not end."""
        return self._engine.stalled_seconds > self._patience

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(self._patience / LOOKS)
            self.look()

    def look(self) -> None:
        """Log a stall, once per patience while it lasts, and its end."""
        seconds = self._engine.stalled_seconds
        if seconds > self._told_at + self._patience:
            self.num_stalls += self._told_at == 0
            self._told_at = seconds
            where = self._engine.where()
            log("stalled", level=logging.ERROR, seconds=round(seconds, 1), where=where)
        elif self._told_at and seconds <= self._patience:
            log("went on", level=logging.WARNING, seconds=round(self._told_at, 1))
            self._told_at = 0.0
