"""Keys, hosts, origins, ids: what stands before every handler."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from halfbyte import LLM
from halfbyte.errors import ArgumentError
from halfbyte.server.gate import Keys
from halfbyte.server.log import LOGGER, JsonFormatter
from halfbyte.server.options import ServeOptions, read_api_keys
from tests.server.running import Served, serving

KEYS = frozenset({"sesame-1", "sesame-2"})
GUARDED = [
    ("GET", "/v1/models"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/embeddings"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
    ("GET", "/nothing"),
]


@pytest.fixture(scope="module")
def locked(talking_llm: LLM) -> Iterator[Served]:
    origin = "https://chat.example.org"
    with serving(talking_llm, api_keys=KEYS, cors_origins=(origin,)) as server:
        yield server


@pytest.mark.parametrize(("method", "path"), GUARDED)
@pytest.mark.parametrize(
    "header", [None, "Bearer", "Bearer wrong", "Basic sesame-1", "sesame-1", "Bearer sesame-"]
)
def test_without_a_key_nothing_but_health_and_the_page_answers(
    locked: Served, method: str, path: str, header: str | None
) -> None:
    headers = {"authorization": header} if header is not None else {}
    with locked.client() as http:
        answer = http.request(method, path, headers=headers, json={})
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert http.get("/health").status_code == 200
        assert http.get("/").status_code == 200


@pytest.mark.parametrize("key", sorted(KEYS))
def test_every_key_opens(locked: Served, key: str) -> None:
    with locked.client(headers={"authorization": f"Bearer {key}"}) as http:
        assert http.get("/v1/models").status_code == 200


def test_a_key_that_is_a_prefix_or_longer_is_wrong() -> None:
    keys = Keys(KEYS)
    assert keys.accepts("Bearer sesame-1")
    for wrong in ("", "s", "sesame-", "sesame-11", "sesame-1\udcff", "sesame-1\x00"):
        assert not keys.accepts(f"Bearer {wrong}")
    assert not Keys(frozenset()).required


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[::2]", "a:1:2"])
def test_on_loopback_only_its_own_names_are_answered(served: Served, host: str) -> None:
    """Else a web page could reach the server by a domain that resolves to this machine."""
    with served.client() as http:
        answer = http.get("/v1/models", headers={"host": host})
        assert answer.status_code in (400, 403)
        assert http.get("/v1/models", headers={"host": "LOCALHOST:80"}).status_code == 200


def test_other_origins_are_refused_unless_named(served: Served, locked: Served) -> None:
    asked = {"origin": "https://chat.example.org", "access-control-request-method": "POST"}
    with served.client() as http:
        answer = http.options("/v1/completions", headers=asked)
        assert "access-control-allow-origin" not in answer.headers
        answer = http.get("/v1/models", headers={"origin": "https://chat.example.org"})
        assert "access-control-allow-origin" not in answer.headers
    with locked.client() as http:
        answer = http.options("/v1/completions", headers=asked)
        assert answer.headers["access-control-allow-origin"] == "https://chat.example.org"
        answer = http.options(
            "/v1/completions", headers=asked | {"origin": "https://other.example.org"}
        )
        assert "access-control-allow-origin" not in answer.headers


def test_a_form_cannot_be_posted(http: httpx.Client) -> None:
    """The content types that a foreign page may send without asking first are not taken."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        answer = http.post(
            "/v1/completions", content='{"prompt": "a"}', headers={"content-type": kind}
        )
        assert answer.status_code == 415


def test_good_ids_are_kept_and_others_replaced(http: httpx.Client) -> None:
    assert http.get("/health", headers={"x-request-id": "job-7"}).headers["x-request-id"] == "job-7"
    for bad in ("a b", "x" * 65, "<script>", 'a"b'):
        got = http.get("/health", headers={"x-request-id": bad}).headers["x-request-id"]
        assert got.startswith("req-")


def test_the_log_has_the_request_and_not_its_text(
    http: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, LOGGER):
        http.post(
            "/v1/completions",
            json={"prompt": "a secret prompt", "max_tokens": 3, "ignore_eos": True},
            headers={"x-request-id": "logged-1"},
        )
        http.post("/v1/completions", json={"prompt": 5, "max_tokens": "a secret value"})
    lines = [JsonFormatter().format(record) for record in caplog.records]
    entry = next(json.loads(line) for line in lines if "logged-1" in line)
    assert entry["event"] == "request"
    assert entry["status"] == 200
    assert entry["completion_tokens"] == 3
    assert not any("secret" in line for line in lines)


def test_keys_come_from_a_file_and_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# ours\nfirst\n\n second \n")
    keys = read_api_keys(path, {"HALFBYTE_API_KEY": "third"})
    assert keys == {"first", "second", "third"}
    assert read_api_keys(None, {}) == frozenset()
    for content in ("", "# nothing\n", "two words\n", "gr\u00fc\u00df\n"):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(ArgumentError, match="api keys"):
            read_api_keys(path, {})
    with pytest.raises(ArgumentError, match="api keys"):
        read_api_keys(tmp_path / "none", {})


@pytest.mark.parametrize(
    "wrong",
    [
        {"port": 65536},
        {"max_body_bytes": 3},
        {"request_timeout": 0.0},
        {"request_timeout": float("nan")},
        {"drain_seconds": -1.0},
        {"max_tokens": 0},
        {"cors_origins": ("example.org",)},
        {"cors_origins": ("https://example.org/path",)},
    ],
)
def test_options_are_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(ArgumentError):
        ServeOptions(**wrong)  # type: ignore[arg-type]
