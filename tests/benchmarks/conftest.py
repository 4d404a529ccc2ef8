from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four rows of every file that workloads read."""
    for name, row in (
        ("mt_bench_4.jsonl", {"turns": ["hello {}", "again"]}),
        ("humaneval_4.jsonl", {"prompt": "def f{}():"}),
        ("gsm8k_4.jsonl", {"question": "1 + {}?"}),
        ("text_by_source_4.jsonl", {"text": "once {} " * 9}),
    ):
        lines = [json.dumps(row).replace("{}", str(i)) for i in range(4)]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    return tmp_path
