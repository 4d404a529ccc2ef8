"""Offline batches and the host's share measure what they say, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks.measure.rows import read

from benchmarks.decoding import batches, host_share


def test_every_batch_of_every_engine_is_a_row(
    talking_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "rows.jsonl"
    peer = tmp_path / "peer"  # answers as the peer's program does
    said = {"tokens_per_second": {"1": 7.0, "3": 9.0}, "version": "1", "bytes": 5}
    peer.write_text(f"#!/bin/sh\necho '{json.dumps(said)}'\n", encoding="utf-8")
    peer.chmod(0o755)
    arguments = f"x --name tiny --model {talking_model} --cascades w8a8 --batch 1 3 --rounds 2"
    arguments += f" --tokens 8 --prompt-tokens 16 --openvino-python {peer} --openvino-model m.Q4_1"
    arguments += f" --onnxruntime-python {peer} --onnxruntime-model m.int4"
    monkeypatch.setattr("sys.argv", [*arguments.split(), "--output", str(output)])
    batches.main()
    rows = {(row.engine, row.metric): row for row in read([output])}
    assert len(rows) == 6
    assert rows["openvino-genai", "offline batch 3"].spread.median == 9.0
    assert rows["onnxruntime-genai", "offline batch 1"].spread.median == 7.0
    assert rows["onnxruntime-genai", "offline batch 1"].format == "int4"
    assert rows["halfbyte", "offline batch 3"].spread.n == 2
    assert all(row.spread.median > 0 for row in rows.values())


def test_the_hosts_share_is_a_share(
    talking_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "rows.jsonl"
    arguments = f"x --name tiny --model {talking_model} --cascades w8a8 --tokens 12 --rounds 1"
    monkeypatch.setattr("sys.argv", [*arguments.split(), "--batch", "1", "--output", str(output)])
    host_share.main()
    [row] = read([output])
    assert row.details is not None
    assert 0 < row.details["host"] < row.details["step"]
    assert row.spread.median == pytest.approx(
        100 * row.details["host"] / row.details["step"], rel=1e-3
    )
