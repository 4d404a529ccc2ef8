"""Structured logs: one JSON object per line on stderr. Prompts and answers are never logged."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any, TextIO

LOGGER = "halfbyte.server"
_OWN = (LOGGER, "halfbyte.sampling")


class JsonFormatter(logging.Formatter):
    """`time`, `level`, `event`, then what the record carries in `fields`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        values: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        values |= getattr(record, "fields", {})
        if record.exc_info:
            values["exception"] = self.formatException(record.exc_info)
        return json.dumps(values, default=str)  # ASCII: one line, on any terminal


def configure(stream: TextIO, level: str) -> None:
    """Send the server's and uvicorn's records to `stream`."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    for name in (*_OWN, "uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers = [handler] if name != "uvicorn.error" else []
        logger.propagate = name == "uvicorn.error"
        # Uvicorn's own news (a process id, phases of its start) are for debugging.
        quiet = name not in _OWN and level == "info"
        logger.setLevel("WARNING" if quiet else level.upper())


def log_bug(error: BaseException, **fields: Any) -> None:
    """Write an exception that no client caused, with its traceback."""
    logging.getLogger(LOGGER).error("bug", exc_info=error, extra={"fields": fields})


def log(event: str, *, level: int = logging.INFO, **fields: Any) -> None:
    """Write one record."""
    logging.getLogger(LOGGER).log(level, event, extra={"fields": fields})
