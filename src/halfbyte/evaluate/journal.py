"""The records of one task on one model, kept as they come: JSON lines that a kill cannot spoil.

The first line is the key: all that shapes the result. The file's name is the key's digest, so
another model, level or setting is another file. A line cut short by a kill is dropped when the file
is opened again, and its item runs again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from halfbyte.errors import ArgumentError, HalfbyteError, reraise_machine_fault, told
from halfbyte.evaluate.tasks.task import Record
from halfbyte.formats.partial import locked


def key_digest(key: Mapping[str, Any]) -> str:
    """16 hexadecimal digits; equal for equal keys."""
    text = json.dumps(key, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Journal:
    """Use it in a `with` block; only one process may have it open."""

    def __init__(self, directory: Path, name: str, key: Mapping[str, Any]) -> None:
        self.key = dict(key)
        self.digest = key_digest(key)
        self.path = directory / f"{name}-{self.digest}.jsonl"
        self.records: dict[str, Record] = {}  # by item id

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+b")
        except OSError as error:
            raise _unwritable(self.path, error) from error
        # None: a file system without locks, where one run at a time is up to the user.
        if locked(self._file.fileno()) is False:
            self._file.close()
            raise ArgumentError(
                f"journal {self.path.name}",
                got="another process writing it",
                expected="one run at a time",
                fix="wait for the other run, or give another --output",
            )
        self._read()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def add(self, record: Record) -> None:
        """Keep one more record; on return it has been handed to the system."""
        self._append(record)
        self.records[str(record["id"])] = record

    def _read(self) -> None:
        self._file.seek(0)
        good = 0
        for number, line in enumerate(self._file):
            try:
                values = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                values = None
            if not isinstance(values, dict) or (number > 0 and "id" not in values):
                break  # what follows a broken line is not trusted either
            if number == 0:
                if values != json.loads(json.dumps(self.key)):
                    break
            else:
                self.records[str(values["id"])] = values
            good += len(line)
        self._file.truncate(good)
        if good == 0:
            self.records.clear()
            self._append(self.key)

    def _append(self, values: Mapping[str, Any]) -> None:
        line = json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n"
        try:
            self._file.seek(0, os.SEEK_END)
            self._file.write(line.encode("utf-8", "surrogatepass"))
            self._file.flush()
        except OSError as error:
            raise _unwritable(self.path, error) from error


def _unwritable(path: Path, error: OSError) -> HalfbyteError:
    reraise_machine_fault(f"writing {path}", error)
    return HalfbyteError(
        f"writing {path}",
        got=told(error),
        expected="a writable directory with enough space",
        fix="check the path given to --output",
    )
