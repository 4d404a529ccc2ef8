"""Records survive kills; another key is another file; one writer at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfbyte.errors import ArgumentError
from halfbyte.evaluate.journal import Journal, key_digest

KEY = {"task": "gsm8k", "settings": {"digest": "ab"}, "weights": "c"}


def _write(directory: Path, count: int) -> Path:
    with Journal(directory, "t", KEY) as journal:
        for i in range(count):
            journal.add({"id": str(i), "value": i, "text": "snow \u2603\n"})
        return journal.path


def test_records_are_there_when_it_is_opened_again(tmp_path: Path) -> None:
    _write(tmp_path, 3)
    with Journal(tmp_path, "t", KEY) as journal:
        assert [r["value"] for r in journal.records.values()] == [0, 1, 2]
        journal.add({"id": "3", "value": 3})
    with Journal(tmp_path, "t", KEY) as journal:
        assert list(journal.records) == ["0", "1", "2", "3"]


@settings(max_examples=40, deadline=None)
@given(cut=st.integers(0, 400))
def test_a_file_cut_anywhere_keeps_its_whole_lines_and_takes_more(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    directory = tmp_path_factory.mktemp("journal")
    path = _write(directory, 4)
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    lines = whole[:cut].count(b"\n")
    with Journal(directory, "t", KEY) as journal:
        assert list(journal.records) == [str(i) for i in range(max(0, lines - 1))]
        journal.add({"id": "new", "value": 9})
    with Journal(directory, "t", KEY) as journal:
        assert len(journal.records) == max(0, lines - 1) + 1


def test_what_stands_after_a_broken_line_is_not_trusted(tmp_path: Path) -> None:
    path = _write(tmp_path, 3)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b"{broken\n", *lines[2:]]))
    with Journal(tmp_path, "t", KEY) as journal:
        assert list(journal.records) == ["0"]


def test_another_key_is_another_file(tmp_path: Path) -> None:
    _write(tmp_path, 2)
    with Journal(tmp_path, "t", KEY | {"weights": "other"}) as journal:
        assert journal.records == {}
    assert len(list(tmp_path.iterdir())) == 2
    assert key_digest(KEY) == key_digest(dict(reversed(KEY.items())))


def test_two_writers_at_once_are_refused(tmp_path: Path) -> None:
    with (
        Journal(tmp_path, "t", KEY),
        pytest.raises(ArgumentError, match="another process"),
        Journal(tmp_path, "t", KEY),
    ):
        pass
