"""What the machine refuses is told as such: no model is called damaged for it."""

from __future__ import annotations

import errno
import json
import os
import resource
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from halfbyte.errors import FormatError, MachineError, SourceError, reraise_machine_fault, told
from halfbyte.formats.checkpoint import Checkpoint
from halfbyte.formats.tensor_file import TensorFile
from halfbyte.importers import hub
from halfbyte.importers.cache import source_identity
from halfbyte.importers.eagle_source import is_head
from halfbyte.importers.gguf_source import GgufSource
from halfbyte.importers.huggingface import HuggingFaceSource
from halfbyte.importers.json_file import read_json
from halfbyte.importers.resolve import resolve
from tests.formats.tiny import write_checkpoint
from tests.importers.tiny_gguf import TinyGguf
from tests.importers.tiny_huggingface import write_model

GIB = 1 << 30


@contextmanager
def no_more_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@contextmanager
def no_more_memory(room: int = 256 << 20) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    used = pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


READERS: dict[str, Callable[[Path], object]] = {
    "checkpoint": lambda path: Checkpoint.open(path / "c"),
    "its tensors": lambda path: TensorFile.open(path / "c" / "embed.safetensors"),
    "GGUF": lambda path: GgufSource(path / "m.gguf"),
    "Hugging Face": lambda path: HuggingFaceSource(path / "hf"),
    "JSON": lambda path: read_json(path / "hf" / "config.json"),
    "identity": lambda path: source_identity(path / "m.gguf"),
    "a draft head": lambda path: is_head(path / "hf"),
    "a cached model": lambda path: resolve(path / "m.gguf"),
}


@pytest.mark.parametrize("kind", READERS)
def test_too_many_open_files_is_not_a_damaged_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("HALFBYTE_CACHE", str(tmp_path / "cache"))
    write_checkpoint(tmp_path / "c")
    write_model(tmp_path / "hf")
    TinyGguf().write(tmp_path / "m.gguf")
    READERS[kind](tmp_path)  # what is imported late is imported
    with no_more_files(), pytest.raises(MachineError, match=r"Too many open files.*ulimit -n"):
        READERS[kind](tmp_path)
    READERS[kind](tmp_path)  # and nothing was thrown away


def test_memory_that_cannot_be_mapped_is_not_a_damaged_model(tmp_path: Path) -> None:
    entry = {"a": {"dtype": "F32", "shape": [GIB // 4], "data_offsets": [0, GIB]}}
    text = json.dumps(entry).encode()
    with (tmp_path / "x.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + GIB)
    path = TinyGguf().write(tmp_path / "m.gguf")
    os.truncate(path, GIB)
    with no_more_memory():
        with pytest.raises(MachineError, match=r"Cannot allocate memory.*free memory"):
            TensorFile.open(tmp_path / "x.safetensors")
        with pytest.raises(MachineError, match=r"Cannot allocate memory.*free memory"):
            GgufSource(path)
    TensorFile.open(tmp_path / "x.safetensors")
    GgufSource(path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_a_download_that_the_disk_refuses_is_not_called_the_network_s_fault(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    import huggingface_hub

    def refuse(*args: object, **how: object) -> None:
        try:
            raise OSError(number, os.strerror(number))
        except OSError as error:
            raise RuntimeError("in the library") from error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(MachineError, match=os.strerror(number)) as caught:
        hub.fetch_snapshot("owner/name")
    assert "network" not in str(caught.value)


def test_memory_that_runs_out_inside_a_library_stays_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import huggingface_hub

    def refuse(*args: object, **how: object) -> None:
        raise MemoryError

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(MemoryError):
        hub.fetch_snapshot("owner/name")


def test_faults_of_a_file_stay_faults_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"missing-file: .*No such file"):
        TensorFile.open(tmp_path / "none.safetensors")
    (tmp_path / "d").mkdir()
    with pytest.raises(SourceError, match="Is a directory"):
        read_json(tmp_path / "d")
    reraise_machine_fault("x", OSError(errno.ENOENT, "No such file or directory"))
    assert told(OSError("no number")) == "no number"
    assert told(OSError()) == "OSError"
