"""The demo's closing table as a terminal of 80 columns shows it."""

from __future__ import annotations

import io

from rich.console import Console

from halfbyte.cli.demo import CASCADES, _show_table
from halfbyte.evaluate.bench import BenchRow, Spread


def row(cascade: str, alpha: list[float]) -> BenchRow:
    return BenchRow(
        cascade=cascade,
        tokens_per_second=Spread(1234.5, 1000.0, 1500.0),
        prefill_tokens_per_second=1.0,
        tau=12.34,
        alpha=alpha,
        bytes_per_token=12345.6e6,
        share_of_bandwidth=None,
        identical=False,
        speedup=12.34,
        weight_bytes=1,
    )


def shown(rows: list[BenchRow]) -> list[str]:
    file = io.StringIO()
    _show_table(Console(width=80, file=file, highlight=False), rows)
    return file.getvalue().splitlines()


def test_every_heading_and_value_is_whole_in_80_columns() -> None:
    lines = shown([row(cascade, [0.81, 0.62, 0.5]) for cascade in CASCADES])
    assert len(lines) == 2 + len(CASCADES), "a title, a line of headings, a line per cascade"
    assert all(len(line) <= 80 for line in lines)
    assert lines[1].split("  ")[0] == "cascade"
    for heading in ("tokens/s", "speed-up", "τ", "α by position", "MB/token", "identical"):
        assert heading in lines[1]
    for cascade, line in zip(CASCADES, lines[2:], strict=True):
        assert line.startswith(cascade)
        assert "1234.5" in line
        assert ".81 .62 .50" in line
        assert line.rstrip().endswith("NO")


def test_a_long_draft_shows_its_first_positions() -> None:
    lines = shown([row("w4a8 > w8a16", [0.9] * 8)])
    assert ".90 .90 .90 .90 …" in lines[2]
    assert len(lines[2]) <= 80
