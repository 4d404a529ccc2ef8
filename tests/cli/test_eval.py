"""`halfbyte eval` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from halfbyte.cli.main import run

SMALL = ["--num-tokens", "512", "--threads", "2"]


def test_a_task_prints_its_result_and_writes_a_row(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, talking_model: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the thin theme in the inn. " * 40, encoding="utf-8")
    arguments = ["eval", str(talking_model), "--task", f"perplexity={text}", *SMALL]
    arguments += ["-l", "w8a16", "-c", "w4a8 > w8a16", "--limit", "3", "--window", "32"]
    assert run([*arguments, "-o", str(tmp_path / "out"), "--name", "tiny"]) == 0
    out = capsys.readouterr().out
    assert out.count("perplexity perplexity: ") == 2
    assert "(3 of " in out
    rows = (tmp_path / "out" / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 1  # the cascade's perplexity is its target's
    row = json.loads(rows[0])
    assert (row["model"], row["level"], row["n"]) == ("tiny", "w8a16", 93)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--task", "perplexity=x"], "--level or --cascade"),
        (["--task", "perplexty=x", "-l", "w8a16"], "did you mean 'perplexity'"),
        (["--task", "perplexity", "-l", "w8a16"], "perplexity=FILE"),
        (["--task", "perplexity=no-such-file", "-l", "w8a16"], "a readable file"),
        (["--task", "perplexity=x", "-l", "w8a16", "--window", "1"], "2 to 1048576"),
        (["--task", "perplexity=x", "-l", "w8a16", "--limit", "0"], "an integer, 1 to"),
        (["--task", "gsm8k=/dev/null", "-l", "w8a16"], "no items"),
        (["--task", "perplexity=x", "-l", "w4a8 > w8a16"], "level"),
        (["--task", "perplexity=x", "-l", "w8a16", "-n", "9"], "--max-tokens"),
        (["--task", "piqa=x", "-l", "w8a16", "--reference", "f32"], "--task agreement"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    talking_model: Path,
    arguments: list[str],
    said: str,
) -> None:
    command = ["eval", str(talking_model), *arguments, *SMALL, "-o", str(tmp_path)]
    assert run(command) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
