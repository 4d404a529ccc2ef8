"""What a client may send and how: counted, timed, answered as HTTP asks, on both event loops."""

from __future__ import annotations

import json
import logging
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from halfbyte import LLM
from halfbyte.server import connection
from halfbyte.server.connection import Connection
from halfbyte.server.log import LOGGER
from tests.server.running import Served, serving

HOST = b"host: localhost\r\n"
TYPE = b"content-type: application/json\r\n"
GET = b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n"
COMPLETION: dict[str, Any] = {
    "prompt": "the",
    "temperature": 0,
    "max_tokens": 4,
    "ignore_eos": True,
}


@pytest.fixture(scope="module", params=["uvloop", "asyncio"])
def server(request: pytest.FixtureRequest, talking_llm: LLM) -> Iterator[Served]:
    with serving(talking_llm, loop=request.param) as running:
        yield running


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience of the size a test has."""
    monkeypatch.setattr(Connection, "head_seconds", 0.6)
    monkeypatch.setattr(Connection, "linger_seconds", 0.2)
    monkeypatch.setattr(Connection, "stall_seconds", 0.6)


def _connect(server: Served) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def _rest(client: socket.socket) -> bytes:
    said = b""
    with suppress(ConnectionError):
        while more := client.recv(65536):
            said += more
    return said


def _said(server: Served, *pieces: bytes) -> bytes:
    """Everything the server says to these pieces until it hangs up."""
    with _connect(server) as client:
        with suppress(OSError):
            for piece in pieces:
                client.sendall(piece)
        return _rest(client)


def _post(body: Any, *fields: bytes, version: bytes = b"1.1") -> bytes:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    length = b"content-length: %d\r\n" % len(raw)
    lines = b"".join((HOST, TYPE, length, *fields))
    return b"POST /v1/completions HTTP/%s\r\n%s\r\n%s" % (version, lines, raw)


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    fields: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)["error"]
        return found


def _answers(data: bytes) -> list[Answer]:
    """Answers in a row, each framed by its length, by chunks, or by the end."""
    found = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("ascii").split("\r\n")
        fields = {n.lower(): v for n, _, v in (line.partition(": ") for line in lines)}
        if fields.get("transfer-encoding") == "chunked":
            body = b""
            while (size := int(data.partition(b"\r\n")[0], 16)) > 0:
                body += data.partition(b"\r\n")[2][:size]
                data = data.partition(b"\r\n")[2][size + 2 :]
            data = data.removeprefix(b"0\r\n\r\n")
        else:
            size = int(fields.get("content-length", len(data)))
            body, data = data[:size], data[size:]
        found.append(Answer(int(first.split(" ")[1]), fields, body))
    return found


def _seconds_until_hung_up(client: socket.socket, drop: bytes, most: float = 10) -> float:
    """How long a client that sends a drop now and then is listened to."""
    began = time.monotonic()
    client.settimeout(0.05)
    while (passed := time.monotonic() - began) < most:
        try:
            client.sendall(drop)
            while client.recv(65536):
                pass
            return passed
        except TimeoutError:
            pass
        except OSError:
            return passed
    return most


# ---- counted ----

CHUNKED = b"POST %s HTTP/1.1\r\n" + HOST + TYPE + b"transfer-encoding: chunked\r\n\r\n"
ENDLESS = {
    "trailers": (b"2\r\n{}\r\n0\r\n", b"x: " + b"y" * 5000 + b"\r\n"),
    "one trailer": (b"2\r\n{}\r\n0\r\nx: ", b"y" * 5000),
    "a chunk's extension": (b"2;x=", b"y" * 5000),
    "a chunk's length": (b"", b"0" * 5000),
}


@pytest.mark.parametrize("path", [b"/v1/completions", b"/nothing", b"/health"])
@pytest.mark.parametrize(("begin", "more"), ENDLESS.values(), ids=ENDLESS.keys())
def test_what_stands_around_a_body_is_counted_whoever_answers(
    server: Served, path: bytes, begin: bytes, more: bytes
) -> None:
    sent = 0
    with _connect(server) as client, suppress(OSError):
        client.sendall(CHUNKED % path + begin)
        while sent < 32 << 20:
            sent += client.send(more)
        pytest.fail("it was listened to without end")
    assert sent < 16 << 20  # of which systems buffer some MB
    assert httpx.get(server.url + "/health").status_code == 200


def test_trailers_are_no_fields_of_a_head(server: Served) -> None:
    """Nor of the next request's, whichever client sent that one through the same proxy."""
    body = json.dumps(COMPLETION).encode()
    chunk = b"%x\r\n%s\r\n0\r\nx-request-id: mine\r\nhost: evil\r\n\r\n" % (len(body), body)
    said = _said(server, CHUNKED % b"/v1/completions" + chunk, _last(GET))
    first, second = _answers(said)
    assert first.status == second.status == 200
    assert "mine" not in (first.fields["x-request-id"], second.fields["x-request-id"])


def test_a_long_head_is_refused_however_it_comes(server: Served) -> None:
    for line in (b"x: y\r\n" * 11_000, b"x: " + b"y" * 66_000 + b"\r\n"):
        (answer,) = _answers(_said(server, GET.removesuffix(b"\r\n") + line + b"\r\n"))
        assert (answer.status, answer.error["code"]) == (431, "head_too_large")


def test_requests_in_a_row_are_answered_in_order_and_bounded(server: Served) -> None:
    said = _said(server, _post(COMPLETION), GET, _post({"prompt": 5}), _last(GET))
    assert [a.status for a in _answers(said)] == [200, 200, 400, 200]
    statuses = [a.status for a in _answers(_said(server, _post(COMPLETION) + GET * 5000))]
    assert statuses == [200] * (1 + connection.MAX_PIPELINED) + [429]


def _last(request: bytes) -> bytes:
    return request.replace(b"\r\n", b"\r\nconnection: close\r\n", 1)


# ---- timed ----

EARLY = {
    "another type": (b"content-type: text/plain\r\n", 415),
    "a body too large": (TYPE, 413),
}


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(("kind", "status"), EARLY.values(), ids=EARLY.keys())
def test_after_an_early_answer_a_client_that_drips_is_hung_up_on(
    server: Served, kind: bytes, status: int
) -> None:
    with _connect(server) as client:
        length = b"content-length: 99999999\r\n"
        client.sendall(b"POST /v1/completions HTTP/1.1\r\n" + HOST + kind + length + b"\r\n")
        assert b" %d " % status in client.recv(4096)
        assert _seconds_until_hung_up(client, b" ") < 5


@pytest.mark.usefixtures("hasty")
def test_after_a_408_a_client_that_drips_is_hung_up_on(talking_llm: LLM) -> None:
    with serving(talking_llm, body_timeout=0.2) as server, _connect(server) as client:
        client.sendall(_post(b"").replace(b"length: 0", b"length: 9999"))
        assert _seconds_until_hung_up(client, b" ") < 5


@pytest.mark.usefixtures("hasty")
def test_after_a_refusal_a_client_that_drips_is_hung_up_on(server: Served) -> None:
    with _connect(server) as client:
        client.sendall(b"no HTTP\r\n\r\n")
        assert _seconds_until_hung_up(client, b"x") < 5


@pytest.mark.usefixtures("hasty")
def test_empty_lines_are_no_request(server: Served) -> None:
    """They are skipped before a request: they must not hold a connection."""
    for before in (b"", GET):
        with _connect(server) as client:
            client.sendall(before)
            assert _seconds_until_hung_up(client, b"\r\n") < 5


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("fields", [(), (b"connection: close\r\n",)])
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_does_not_read_is_hung_up_on(
    server: Served, stream: bool, fields: tuple[bytes, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would hold its answer, its connection and its request for ever."""
    many = {**COMPLETION, "max_tokens": 400, "n": 8, "logprobs": 20, "stream": stream}
    lost = threading.Event()
    gone = Connection.connection_lost

    def connection_lost(self: Connection, error: Exception | None) -> None:
        gone(self, error)
        lost.set()

    monkeypatch.setattr(Connection, "connection_lost", connection_lost)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        host, port = server.url.removeprefix("http://").split(":")
        client.connect((host, int(port)))
        client.sendall(_post(many, *fields) * 4)
        assert lost.wait(30)
    server.wait_until_idle()


@pytest.mark.usefixtures("hasty")
def test_a_client_that_reads_slowly_gets_its_whole_answer(server: Served) -> None:
    many = {**COMPLETION, "max_tokens": 400, "n": 4, "logprobs": 20}
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        host, port = server.url.removeprefix("http://").split(":")
        client.connect((host, int(port)))
        client.sendall(_post(many, b"connection: close\r\n"))
        said = client.recv(1)
        began = time.monotonic()
        while more := client.recv(16384):
            said += more
            if time.monotonic() - began < 2:
                time.sleep(0.1)
    (answer,) = _answers(said)
    assert len(json.loads(answer.body)["choices"]) == 4


def test_a_client_that_sends_all_before_it_reads_still_learns_why_it_is_refused(
    server: Served,
) -> None:
    body = b"x" * (6 << 20)  # over the limit of 4 MiB
    for fields in ((), (b"connection: close\r\n",)):
        with _connect(server) as client:
            client.sendall(_post(body, *fields))
            assert client.recv(64).startswith(b"HTTP/1.1 413 ")


def test_a_connection_goes_on_after_a_refused_body_has_come(server: Served) -> None:
    wrong = _post(b"x" * 100_000).replace(TYPE, b"content-type: text/plain\r\n")
    said = _said(server, wrong, _last(GET))
    assert [a.status for a in _answers(said)] == [415, 200]


# ---- answered as HTTP asks ----


def test_http_1_0_gets_no_chunks_and_an_end(server: Served) -> None:
    for stream in (False, True):
        (answer,) = _answers(_said(server, _post({**COMPLETION, "stream": stream}, version=b"1.0")))
        assert answer.status == 200
        assert "transfer-encoding" not in answer.fields
        assert answer.fields["connection"] == "close"
        if stream:
            assert answer.body.startswith(b"data: {")
            assert answer.body.endswith(b"data: [DONE]\n\n")
        else:
            assert json.loads(answer.body)["choices"]


def test_an_older_client_may_ask_to_keep_its_connection_and_gets_it_closed(server: Served) -> None:
    asked = _post(COMPLETION, b"connection: keep-alive\r\n", version=b"1.0")
    (answer,) = _answers(_said(server, asked + asked))
    assert answer.fields["connection"] == "close"


MALFORMED = {
    "no HTTP": b"hello\r\n\r\n",
    "a method in lower case": b"get / HTTP/1.1\r\n\r\n",
    "two lengths": _post(b"abcde").replace(HOST, b"content-length: 6\r\n" + HOST),
    "a length and chunks": _post(b"abcde", b"transfer-encoding: chunked\r\n"),
    "a negative length": _post(b"").replace(b"length: 0", b"length: -1"),
    "chunks not last": CHUNKED.replace(b"chunked", b"chunked, gzip") % b"/v1/completions",
    "a bad chunk": CHUNKED % b"/v1/completions" + b"zz\r\n",
    "a bad chunk, later": CHUNKED % b"/v1/completions" + b"2\r\n{}\r\nzz\r\n",
    "a space before the colon": GET.replace(b"host:", b"host :"),
    "a NUL": GET.replace(b"localhost", b"local\0host"),
    "a folded line": GET.replace(b"\r\n\r\n", b"\r\n folded\r\n\r\n"),
    "no target": b"GET HTTP/1.1\r\n\r\n",
    "a target beyond ASCII": GET.replace(b"/health", b"/h\xff"),
    "an authority": b"CONNECT localhost:80 HTTP/1.1\r\n" + HOST + b"\r\n",
    "two hosts": GET.replace(HOST, HOST * 2),
    "two other hosts": GET.replace(HOST, HOST + b"host: evil\r\n"),
    "two keys": GET.replace(HOST, HOST + b"authorization: a\r\nauthorization: b\r\n"),
    "two types": _post(COMPLETION, b"content-type: text/plain\r\n"),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_http_gets_the_error_object(server: Served, data: bytes) -> None:
    answer = _answers(_said(server, _last(data) if b"HTTP/1.1" in data else data))[0]
    assert answer.status == 400
    assert set(answer.error) == {"message", "type", "param", "code"}
    assert answer.error["code"] == "malformed_http"
    assert re.match(r"req-\w+$", answer.fields["x-request-id"])


def test_another_version_is_named(server: Served) -> None:
    (answer,) = _answers(_said(server, GET.replace(b"1.1", b"2.0")))
    assert answer.status == 505


def test_what_is_malformed_behind_a_request_does_not_get_into_its_answer(server: Served) -> None:
    streamed = _post({**COMPLETION, "stream": True})
    first, second = _answers(_said(server, streamed + b"no HTTP\r\n\r\n"))
    assert first.body.endswith(b"data: [DONE]\n\n")
    assert second.status == 400


def test_what_comes_after_the_last_request_is_ignored(server: Served) -> None:
    for behind in (b"x", GET):
        (answer,) = _answers(_said(server, _post(COMPLETION, b"connection: close\r\n") + behind))
        assert answer.status == 200


def test_an_offered_upgrade_is_declined_and_the_body_read(server: Served) -> None:
    """Java's client offers HTTP/2 with every first request."""
    offer = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n"
    body = json.dumps(COMPLETION).encode()
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    chunked = CHUNKED.replace(TYPE, TYPE + offer) % b"/v1/completions" + chunks
    said = _said(server, _post(COMPLETION, offer), chunked, _post(COMPLETION, offer) + _last(GET))
    assert [a.status for a in _answers(said)] == [200] * 4


def test_a_head_without_a_body_is_answered_to_head(server: Served) -> None:
    said = _said(server, GET.replace(b"GET", b"HEAD"), _last(GET))
    head, _, rest = said.partition(b"\r\n\r\n")
    assert b"content-length: 15" in head
    (answer,) = _answers(rest)
    assert json.loads(answer.body) == {"status": "ok"}


def test_who_asks_before_sending_a_body_is_told_to_go_on_or_not(server: Served) -> None:
    asks = b"expect: 100-continue\r\n"
    request = _post(COMPLETION, asks, b"connection: close\r\n")
    head, _, body = request.partition(b"\r\n\r\n")
    with _connect(server) as client:
        client.sendall(head + b"\r\n\r\n")
        assert client.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(body)
        (answer,) = _answers(_rest(client))
        assert answer.status == 200
    refused = _post(COMPLETION, asks).replace(TYPE, b"content-type: text/plain\r\n")
    (answer,) = _answers(_said(server, refused.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"))
    assert answer.status == 415
    assert answer.fields["connection"] == "close"  # the body may come or not


# ---- the machine and the end ----


def test_more_connections_than_the_machine_allows_are_told_why(
    talking_llm: LLM, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Connection, "_full_told", -1e9)
    with caplog.at_level(logging.INFO, LOGGER), serving(talking_llm) as server:
        server.limit_connections(4)
        held = [_connect(server) for _ in range(4)]
        try:
            answer = _answers(_said(server, GET))[0]
            assert (answer.status, answer.error["code"]) == (503, "no_resources")
            assert "open files" in answer.error["message"]
        finally:
            for client in held:
                client.close()
        time.sleep(0.2)
        assert httpx.get(server.url + "/health").status_code == 200
    assert [record.getMessage() for record in caplog.records].count("full") == 1


@pytest.mark.parametrize("stream", [True, False])
def test_what_a_drain_cuts_off_ends_with_an_error(talking_llm: LLM, stream: bool) -> None:
    body = {**COMPLETION, "max_tokens": 450, "n": 8, "stream": stream}
    with serving(talking_llm, drain_seconds=0.02) as server:
        client = _connect(server)
        client.sendall(_post(body))
        while server.engine.snapshot().running == 0:
            time.sleep(0.001)
    (answer,) = _answers(_rest(client))
    client.close()
    if stream:
        *_, last = answer.body.strip().split(b"\n\n")
        error = json.loads(last.removeprefix(b"data: "))["error"]
    else:
        assert answer.status == 503
        error = answer.error
    assert error["code"] == "cancelled"


def test_serving_is_said_when_the_port_listens(
    talking_llm: LLM, caplog: pytest.LogCaptureFixture
) -> None:
    reached: list[bool] = []

    class Reach(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage() == "serving":
                url: str = record.fields["url"]  # type: ignore[attr-defined]
                address = url.removeprefix("http://").split(":")
                with suppress(OSError), socket.create_connection((address[0], int(address[1]))):
                    reached.append(True)

    handler, logger = Reach(), logging.getLogger(LOGGER)
    logger.addHandler(handler)
    try:
        with caplog.at_level(logging.INFO, LOGGER), serving(talking_llm):
            pass
    finally:
        logger.removeHandler(handler)
    assert reached == [True]


def test_a_connection_that_is_reset_anywhere_leaves_nothing_behind(server: Served) -> None:
    request = _post({**COMPLETION, "max_tokens": 200, "stream": True}) + GET
    before = _open_files()
    for cut in range(0, len(request), 9):
        client = _connect(server)
        client.sendall(request[:cut])
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # reset
        client.close()
    server.wait_until_idle()
    end = time.monotonic() + 10
    while _open_files() > before + 2:
        assert time.monotonic() < end
        time.sleep(0.01)


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
