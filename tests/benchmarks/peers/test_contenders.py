import json
from pathlib import Path

import pytest
from benchmarks.peers.contenders import IK_VARIABLE, Halfbyte, LlamaBench, Task, llama_benches

from halfbyte.errors import SourceError


def prepared(tmp_path: Path) -> Path:
    for name in ("bin/llama-bench", "bin/llama-bench-no-amx", "models/m.Q8_0.gguf"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"12345")
    return tmp_path


def test_every_build_and_ik_take_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(IK_VARIABLE, "ik")
    found = llama_benches(prepared(tmp_path), "m", ["Q8_0"], 2)
    assert [peer.engine for peer in found] == ["llama.cpp", "llama.cpp no-amx", "ik_llama.cpp"]


def test_a_missing_model_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(IK_VARIABLE, raising=False)
    with pytest.raises(SourceError, match=r"m\.Q4_0\.gguf"):
        llama_benches(prepared(tmp_path), "m", ["Q4_0"], 2)


@pytest.mark.parametrize("is_ik", [False, True])
def test_all_engines_decode_as_many_tokens_after_as_many(tmp_path: Path, is_ik: bool) -> None:
    test = Task("decode", 64, 4096)
    peer = LlamaBench("peer", tmp_path / "x", tmp_path / "y", "Q8_0", 2, is_ik)
    own = list(Halfbyte("m", "w8a8", 2, 8).command(test))
    theirs = list(peer.command(test))
    assert own[own.index("--depth") + 1] == "4096"
    assert own[own.index("--tokens") + 1] == "64"
    if is_ik:
        assert theirs[theirs.index("-gp") + 1] == "4096,64"
    else:
        assert (theirs[theirs.index("-d") + 1], theirs[theirs.index("-n") + 1]) == ("4096", "64")


def test_a_reading_is_the_median_of_a_process(tmp_path: Path) -> None:
    model = tmp_path / "y"
    model.write_bytes(b"12345")
    peer = LlamaBench("peer", tmp_path / "x", model, "Q8_0", 2)
    output = json.dumps([{"samples_ts": [1.0, 9.0, 2.0], "build_commit": "abc"}])
    reading = peer.read(output)
    assert (reading.value, reading.version, reading.num_bytes) == (2.0, "abc", 5)


def test_output_that_is_no_json_is_one_error(tmp_path: Path) -> None:
    peer = LlamaBench("peer", tmp_path / "x", tmp_path / "y", "Q8_0", 2)
    with pytest.raises(SourceError, match="llama-bench's JSON"):
        peer.read("segfault")


def test_the_faster_of_a_peers_settings_counts(tmp_path: Path) -> None:
    model = tmp_path / "y"
    model.write_bytes(b"12345")
    peer = LlamaBench("peer", tmp_path / "x", model, "Q8_0", 2)
    runs = [
        {"samples_ts": [5.0], "build_commit": "abc", "flash_attn": True},
        {"samples_ts": [9.0], "build_commit": "abc", "flash_attn": False},
    ]
    reading = peer.read(json.dumps(runs))
    assert (reading.value, reading.details) == (9.0, {"flash_attention": False})
