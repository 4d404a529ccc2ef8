"""The planner's benchmark from its command to its rows, on a tiny model and beside a peer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks.measure.rows import read
from benchmarks.report.planner_tables import comparisons

from benchmarks.planner import auto


def peers(directory: Path) -> Path:
    """A llama-bench that answers at once, and a model file in two formats."""
    said = [{"samples_ts": [7.0, 9.0, 8.0], "build_commit": "abc", "flash_attn": 0}]
    program = directory / "bin" / "llama-bench"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\necho '{json.dumps(said)}'\n", encoding="utf-8")
    program.chmod(0o755)
    (directory / "models").mkdir()
    for name in ("Q4_0", "Q8_0"):
        (directory / "models" / f"tiny.{name}.gguf").write_bytes(b"1234")
    return directory


def test_every_variant_and_peer_of_a_comparison_is_a_row(
    talking_model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "rows.jsonl"
    command = ["x", "--name", "tiny", "--model", str(talking_model), "--data", str(data)]
    command += ["--kinds", "chat", "--batches", "1", "--variant", "ngram > w4a8 > {} @4/2"]
    command += ["--variant", "w4a8 > {} @2", "--plain", "w4a8", "--prompts", "2", "--tokens", "12"]
    command += ["--peers", str(peers(tmp_path / "peers")), "--formats", "Q4_0,Q8_0"]
    monkeypatch.setattr("sys.argv", [*command, "--rounds", "1", "--output", str(output)])
    auto.main()
    [found] = comparisons(read([output]))
    assert (found.kind, found.batch) == ("chat", 1)
    assert found.plain.cascade == "w8a16"
    assert {row.cascade for row in found.fixed} == {
        "w8a16",
        "w4a8 > w8a16 @2",
        "ngram > w4a8 > w8a16 @4/2",
    }
    assert [row.cascade for row in found.others] == ["w4a8"]
    assert [(row.engine, row.format, row.spread.median) for row in found.peers] == [
        ("llama.cpp", "Q4_0", 8.0),
        ("llama.cpp", "Q8_0", 8.0),
    ]
    for row in (found.auto, *found.fixed):
        details = row.details or {}
        assert details["identical"]
        assert details["pairs"] == 2
        low, high = details["of_peer_interval"]
        assert 0 < low <= details["of_peer"] <= high
    assert (found.others[0].details or {})["identical"] is False
    pair = next(row for row in found.fixed if row.cascade.startswith("w4a8"))
    assert (pair.details or {})["predicted_speedup"] > 0
