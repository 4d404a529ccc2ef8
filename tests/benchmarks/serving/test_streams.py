"""The serving benchmark measures what it says, and stops where an answer is not whole."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from benchmarks.measure.rows import Row, Spread
from benchmarks.report.results import report
from benchmarks.serving.load import Load, run_load
from benchmarks.serving.servers import HalfbyteServer, LlamaServer, version_of
from benchmarks.serving.streams import _read, prompt_text

from halfbyte import LLM
from halfbyte.errors import SourceError
from tests.server.running import serving


@pytest.mark.parametrize(
    ("said", "version"),
    [
        (
            "version: 0.5.0-dev (build 1, commit 0c1e570)\nbuilt with GNU 12.2.0 for Linux x86_64",
            "0.5.0-dev (build 1, commit 0c1e570)",
        ),
        ("load_backend: CPU\nversion: 4877 (363f8c5d)\nbuilt with cc", "4877 (363f8c5d)"),
        ("llama-server 7\n", "llama-server 7"),
        ("", "unknown"),
    ],
)
def test_a_peers_version_is_not_cut(said: str, version: str) -> None:
    assert version_of(said) == version


def test_every_prompt_is_answered_in_full_and_timed(talking_llm: LLM) -> None:
    with serving(talking_llm) as server:
        port = int(server.url.rpartition(":")[2])
        before = server.engine.snapshot().emitted_tokens
        load = Load(3, [f"{i} the thing" for i in range(7)], 20, {"cascade": "w8a16"})
        answers = asyncio.run(run_load(port, load))
        assert len(answers) == 7
        assert server.engine.snapshot().emitted_tokens - before == 140
        assert all(a.sent < a.first < a.ended and a.tokens == 20 for a in answers)
        reading = _read(answers, load)
        assert reading.tokens_per_second > 0
        assert 0 < reading.between_tokens < reading.first_token + 1
        with pytest.raises(SourceError, match="of 600"):
            asyncio.run(run_load(port, Load(1, ["a"], 600, {})))
        with pytest.raises(SourceError, match="400"):
            asyncio.run(run_load(port, Load(1, ["a"], 5, {"unknown": 1})))


def test_no_two_prompts_begin_alike_and_all_are_as_long() -> None:
    prompts = [prompt_text(i, 128) for i in range(2000)]
    assert len({p[:16] for p in prompts}) == 2000
    assert {len(p) for p in prompts} == {512}


def test_servers_are_started_with_a_slot_for_every_stream(talking_model: Path) -> None:
    ours = HalfbyteServer(str(talking_model), "w8a8", 2, 32, 320, None).command(9)
    assert ours[ours.index("--max-batch") + 1] == "32"
    assert ours[ours.index("--num-tokens") + 1] == str(32 * 320)
    peer = LlamaServer(Path("llama-server"), Path("m.Q8_0.gguf"), 2, 32, 320)
    command = peer.command(9)
    assert command[command.index("-np") + 1] == "32"
    assert command[command.index("-c") + 1] == str(32 * 320)
    assert peer.format == "Q8_0"


def test_the_table_has_a_line_per_engine_and_a_column_per_load() -> None:
    def row(engine: str, metric: str, value: float) -> Row:
        machine = {"cpu": "x", "family_model": "1/2", "threads": 2, "cores": 2, "flags": []}
        return Row(
            "c", "2026-01-01", machine | {"read_gbs": 1.0}, engine, "1", "m", "Q8_0", 1, "",
            metric, "s", Spread.of([value]),
        )  # fmt: skip

    rows = [
        row(engine, f"serve {what} {n}", value)
        for engine in ("halfbyte", "llama.cpp")
        for n in (1, 8)
        for what, value in (("streams", 100.0 * n), ("first token", 0.25))
    ]
    text = report(rows)
    assert "| weights | engine | 1 stream | 8 streams |" in text
    assert "| Q8_0 | llama.cpp | 100, 250 ms | 800, 250 ms |" in text
