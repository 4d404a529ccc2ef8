"""One mistake of each kind in the files of a model, for every verb that reads one: one line."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from halfbyte.cli.main import run
from tests.importers.tiny_gguf import TinyGguf
from tests.importers.tiny_huggingface import CONFIG, write_model
from tests.support.talking_model import write_talking_model

SMALL = ["--num-tokens", "512", "--threads", "1"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HALFBYTE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)


def _commands(model: str, dest: Path, text: Path) -> list[list[str]]:
    text.write_text("the thing in there " * 99, encoding="utf-8")
    return [
        ["generate", model, "-p", "x", "-n", "2", *SMALL],
        ["inspect", model],
        ["convert", model, str(dest)],
        ["quantize", model, str(dest), "--tokens", "64", "--sequence", "32", "--threads", "1"],
        ["eval", model, "--task", f"perplexity={text}", "-l", "w8a16", "-o", f"{dest}-rows"],
    ]


def _refused(capsys: pytest.CaptureFixture[str], command: list[str]) -> str:
    assert run(command) == 2, command
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("halfbyte: ")
    assert captured.err.count("\n") == 1, captured.err
    return captured.err


def _gguf(change: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        path.write_bytes(change(TinyGguf().write(path).read_bytes()))
        return path

    return make


def _directory(change: Callable[[Path], Any], **how: Any) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        change(write_model(path, **how))
        return path

    return make


def _weights(content: bytes) -> Callable[[Path], Path]:
    return _directory(lambda d: (d / "model.safetensors").write_bytes(content))


def _config(**changed: Any) -> Callable[[Path], Path]:
    return _directory(lambda d: (d / "config.json").write_text(json.dumps(CONFIG | changed)))


def _checkpoint(change: Callable[[Path], Any]) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        change(write_talking_model(path))
        return path

    return make


def _halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


MODELS: dict[str, Callable[[Path], Path]] = {
    "GGUF of no bytes": _gguf(lambda data: b""),
    "GGUF cut in its magic": _gguf(lambda data: data[:3]),
    "GGUF cut in its header": _gguf(lambda data: data[:100]),
    "GGUF cut in its tensors": _gguf(lambda data: data[:-1]),
    "GGUF with another magic": _gguf(lambda data: b"GGML" + data[4:]),
    "GGUF of another version": _gguf(lambda data: data[:4] + b"\x63" + data[5:]),
    "safetensors of no bytes": _weights(b""),
    "safetensors header of 2^62 bytes": _weights(struct.pack("<Q", 1 << 62) + b"{}"),
    "safetensors header past the end": _weights(struct.pack("<Q", 100) + b"{}"),
    "safetensors header of no bytes": _weights(struct.pack("<Q", 0)),
    "safetensors cut in its tensors": _directory(lambda d: _halve(d / "model.safetensors")),
    "a shard is missing": _directory(
        lambda d: (d / "model-00002-of-00003.safetensors").unlink(), shards=3
    ),
    "no weights": _directory(lambda d: (d / "model.safetensors").unlink()),
    "no config": _directory(lambda d: (d / "config.json").unlink()),
    "config is no JSON": _directory(lambda d: (d / "config.json").write_text("{")),
    "config is no text": _directory(lambda d: (d / "config.json").write_bytes(b"\xff\xfe{")),
    "another architecture": _config(model_type="mamba"),
    "a negative size": _config(hidden_size=-64),
    "a size in words": _config(num_hidden_layers="two"),
    "an unknown packing": _config(quantization_config={"quant_method": "odd"}),
    "a broken tokenizer": _directory(lambda d: (d / "tokenizer.json").write_text("{}")),
    "a manifest of no bytes": _checkpoint(lambda d: (d / "halfbyte.json").write_bytes(b"")),
    "a manifest cut short": _checkpoint(lambda d: _halve(d / "halfbyte.json")),
    "a layer is missing": _checkpoint(lambda d: (d / "layer-001.safetensors").unlink()),
    "a layer cut short": _checkpoint(lambda d: _halve(d / "layer-001.safetensors")),
    "an empty directory": lambda path: path.mkdir() or path,  # type: ignore[func-returns-value]
    "a pipe": lambda path: os.mkfifo(path) or path,  # type: ignore[func-returns-value]
    "a link to nowhere": lambda path: path.symlink_to("nowhere") or path,  # type: ignore[func-returns-value]
    "a name too long for a path": lambda path: Path("x" * 5000),
    "no such hub model here": lambda path: Path("no/such"),
}


@pytest.mark.parametrize("kind", MODELS)
def test_a_damaged_model_is_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, kind: str
) -> None:
    model = MODELS[kind](tmp_path / "m")
    for command in _commands(str(model), tmp_path / "dest", tmp_path / "text.txt"):
        _refused(capsys, command)
    assert not (tmp_path / "dest").exists()


@pytest.mark.parametrize("verb", ["convert", "quantize"])
@pytest.mark.parametrize(
    "dest", ["m.gguf", "m.gguf/below", "x" * 5000, "/proc/nowhere/at/all", "."]
)
def test_a_destination_that_cannot_be_made_is_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, verb: str, dest: str
) -> None:
    model = TinyGguf().write(tmp_path / "m.gguf")
    _refused(capsys, [verb, str(model), dest])


def test_weights_without_a_tokenizer_take_no_text(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    silent = write_talking_model(tmp_path / "silent", text=False)
    said = _refused(capsys, ["generate", str(silent), "-p", "x", *SMALL])
    assert "no tokenizer.json" in said
    said = _refused(capsys, ["generate", str(silent), "--chat", "-p", "x", *SMALL])
    assert "tokenizer" in said


_PR_CAPBSET_DROP, _CAPABILITIES = 24, (1, 2)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH


def _let_modes_count() -> None:
    """Root reads what its mode forbids; not without these capabilities."""
    for capability in _CAPABILITIES:
        ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)


def _limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))


def _start(before: Callable[[], None], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "halfbyte", *arguments]
    return subprocess.run(
        command, preexec_fn=before, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("unreadable", ["m.gguf", "hf/config.json", "hf/model.safetensors", "hf"])
def test_what_may_not_be_read_is_one_line_and_status_2(tmp_path: Path, unreadable: str) -> None:
    TinyGguf().write(tmp_path / "m.gguf")
    write_model(tmp_path / "hf")
    (tmp_path / unreadable).chmod(0)
    model = tmp_path / unreadable.partition("/")[0]
    done = _start(_let_modes_count, "inspect", str(model))
    (tmp_path / unreadable).chmod(0o700)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert "Permission denied" in done.stderr


def test_a_disk_that_takes_no_more_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    model = TinyGguf().write(tmp_path / "m.gguf")
    done = _start(_limit_files, "convert", str(model), str(tmp_path / "dest"))
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"halfbyte: writing {tmp_path / 'dest'}: got ")
    assert "Traceback" not in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.gguf"]
    done = _start(_limit_files, "generate", str(model), "-p", "x", *SMALL)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
