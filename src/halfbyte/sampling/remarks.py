"""What a schema asks for and nothing enforces: said once in the log, however often it is asked."""

from __future__ import annotations

import logging
import threading

LOGGER = "halfbyte.sampling"
MAX_KEPT = 1024  # remarks; schemas of strangers have no end of them
MAX_CHARS = 200


class Remarks:
    """Remarks that have been made. For any thread."""

    def __init__(self) -> None:
        self._made: set[str] = set()
        self._lock = threading.Lock()

    def make(self, remark: str) -> None:
        """Log a remark that is new."""
        remark = " ".join(remark.split())[:MAX_CHARS]
        with self._lock:
            if remark in self._made or len(self._made) == MAX_KEPT:
                return
            self._made.add(remark)
        logging.getLogger(LOGGER).warning("a schema is not enforced in full: %s", remark)


remark = Remarks().make
