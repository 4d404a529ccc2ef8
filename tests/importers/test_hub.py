"""A hub id, as a user gives it: fetched once, resumed, usable offline, or one line and status 2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.importers.local_hub import LocalHub, serving
from tests.importers.tiny_huggingface import CONFIG, write_model
from tests.support.talking_model import BOS, EOS, tokenizer

MIB = 1 << 20
ROWS = 100_000  # of the embedding: huggingface_hub writes, and so resumes after, whole 10 MiB


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A talking llama in three shards, with a file that an import does not need."""
    config = CONFIG | {
        "vocab_size": ROWS,
        "tie_word_embeddings": True,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
    }
    directory = tmp_path_factory.mktemp("hub") / "name"
    write_model(directory, config, dtype="BF16", shards=3)
    (directory / "tokenizer.json").write_text(tokenizer().to_str(), encoding="utf-8")
    (directory / "pytorch_model.bin").write_bytes(b"pickled")
    return directory


def _generate(
    hub: LocalHub, home: Path, model: str = "org/name"
) -> subprocess.CompletedProcess[str]:
    arguments = ["generate", model, "-p", "the end", "-n", "8", "--cascade", "w8a16", "--json"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return subprocess.run(
        [sys.executable, "-m", "halfbyte", *arguments, "--num-tokens", "256", "--threads", "1"],
        env=clean
        | {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(home / "hf"),
            "HALFBYTE_CACHE": str(home / "halfbyte"),
        },
        capture_output=True,
        text=True,
        timeout=120,
    )


def _text(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["text"])


def test_a_download_is_resumed_where_it_stopped_and_serves_offline_ever_after(
    repository: Path, tmp_path: Path
) -> None:
    files = {p.name: p.stat().st_size for p in repository.iterdir()}
    del files["pytorch_model.bin"]
    largest = max(files, key=lambda name: files[name])
    assert files[largest] > 11 * MIB
    hub = LocalHub({"org/name": repository})
    with serving(hub):
        hub.forbidden.add(largest)
        stopped = _generate(hub, tmp_path)
        assert stopped.returncode == 2
        assert stopped.stderr.splitlines()[-1].startswith("halfbyte: hub model org/name: got ")
        hub.forbidden.clear()
        hub.cuts[largest] = 11 * MIB
        first = _text(_generate(hub, tmp_path))
    assert {name for name, _ in hub.downloads} == set(files)
    assert [asked for name, asked in hub.downloads if name == largest] == [
        None,
        f"bytes={10 * MIB}-",
    ]
    assert len(hub.downloads) == len(files) + 1
    assert _text(_generate(hub, tmp_path)) == first  # nothing listens at hub.url any more
    assert _text(_generate(hub, tmp_path, str(repository))) == first


def test_an_unknown_model_is_one_line_and_status_2(tmp_path: Path) -> None:
    hub = LocalHub({})
    with serving(hub):
        done = _generate(hub, tmp_path, "org/other")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("halfbyte: hub model org/other: got ")
    assert "not found" in done.stderr.lower()


def test_a_hub_out_of_reach_is_one_line_and_status_2(tmp_path: Path) -> None:
    hub = LocalHub({})
    with serving(hub):
        pass
    done = _generate(hub, tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "hub model org/name" in done.stderr
