"""The published document is what the server does."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from halfbyte.server.app import ENDPOINTS
from tests.server.running import Served


def _references(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*(_references(v) for v in node.values()))
    if isinstance(node, list):
        return set().union(*(_references(v) for v in node))
    return set()


def test_every_endpoint_is_described_and_every_reference_exists(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    described = {(m.upper(), p) for p, ops in document["paths"].items() for m in ops}
    assert described == {(e.method, e.path.replace(":path", "")) for e in ENDPOINTS}
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert _references(document) <= known


def test_what_is_ignored_is_said_to_be(http: httpx.Client) -> None:
    fields = http.get("/openapi.json").json()["components"]["schemas"]["ChatBody"]["properties"]
    for name in ("user", "store", "metadata", "service_tier"):
        assert "ignored" in fields[name]["description"]


def test_metrics_are_prometheus_text_with_what_the_server_did(http: httpx.Client) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    http.post("/v1/completions", json={"prompt": "the", "max_tokens": 12, "ignore_eos": True})
    answer = http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    families = {f.name: f for f in text_string_to_metric_families(answer.text)}
    samples = {
        (s.name, *sorted(s.labels.items())): s.value for f in families.values() for s in f.samples
    }
    assert samples[("halfbyte_emitted_tokens_total",)] >= 12
    proposed = samples[("halfbyte_proposed_tokens_total", ("position", "0"))]
    assert proposed >= samples[("halfbyte_accepted_tokens_total", ("position", "0"))] > 0
    assert samples[("halfbyte_time_to_first_token_seconds_count",)] >= 1
    assert samples[("halfbyte_finished_total", ("reason", "length"))] >= 1
    assert any(name == "halfbyte_choices_total" for name, *_ in samples)
    assert {"halfbyte_waiting", "halfbyte_free_pages", "halfbyte_http_answers"} <= set(families)


@pytest.mark.slow
def test_schemathesis_finds_no_server_error_and_no_answer_off_the_document(
    served: Served, tmp_path: Path
) -> None:
    """Values that a schema cannot know to be wrong (a token past the vocabulary) may be refused."""
    beside = Path(sys.executable).with_name("schemathesis")
    program = beside if beside.exists() else shutil.which("schemathesis")
    if program is None:
        pytest.skip("pip install 'halfbyte[browser]'")
    done = subprocess.run(
        [
            str(program),
            "run",
            f"{served.url}/openapi.json",
            "--max-examples=40",
            "--exclude-checks=positive_data_acceptance",
            "--request-timeout=30",
            "--max-time=240",
            "--continue-on-failure",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert re.search(r"[1-9]\d* generated", done.stdout)
    served.wait_until_idle()
