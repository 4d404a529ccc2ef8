"""An engine that stands still is seen, told and, where it goes on, well again."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from halfbyte import LLM
from halfbyte.api.async_engine import AsyncEngine
from halfbyte.server import watchdog
from halfbyte.server.log import LOGGER, JsonFormatter
from halfbyte.server.options import ServeOptions
from halfbyte.server.run import Server, bound
from halfbyte.server.watchdog import Watchdog
from tests.server.running import serving

VERBS = ("forward", "forward_sample", "draft", "decode", "draft_and_verify")
BODY = {"prompt": "the", "max_tokens": 5, "temperature": 0, "ignore_eos": True}


class Still:
    """Makes a runtime wait, in whichever call comes next."""

    def __init__(self, runtime: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stands = threading.Event()
        self.goes_on = threading.Event()
        for name in VERBS:
            monkeypatch.setattr(runtime, name, self._waiting(getattr(runtime, name)))

    def _waiting(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def still(*args: Any, **kwargs: Any) -> Any:
            self.stands.set()
            assert self.goes_on.wait(60)
            return real(*args, **kwargs)

        return still


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def _metric(http: httpx.Client, name: str) -> float:
    lines = http.get("/metrics").text.splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(name + " ")))


def test_a_runtime_that_stands_still_is_reported_until_it_goes_on(
    talking_llm: LLM, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watchdog.Watchdog.__init__, "__defaults__", (0.3,))
    answers: list[httpx.Response] = []
    with (
        caplog.at_level(logging.INFO, LOGGER),
        serving(talking_llm) as server,
        server.client() as http,
    ):
        still = Still(talking_llm.model.runtime, monkeypatch)
        asking = threading.Thread(
            target=lambda: answers.append(httpx.post(f"{server.url}/v1/completions", json=BODY))
        )
        assert http.get("/health").status_code == 200
        asking.start()
        assert still.stands.wait(10)
        _until(lambda: http.get("/health").status_code == 503)
        assert http.get("/health").json() == {"status": "stalled"}
        _until(lambda: _metric(http, "halfbyte_stalls_total") == 1)
        assert _metric(http, "halfbyte_stalled_seconds") > 0.3
        still.goes_on.set()
        asking.join(20)
        _until(lambda: http.get("/health").status_code == 200)
        assert _metric(http, "halfbyte_stalled_seconds") == 0
        _until(lambda: any("went on" in r.getMessage() for r in caplog.records))
        time.sleep(0.5)  # no request, so nothing waits
        assert http.get("/health").status_code == 200
    assert answers[0].status_code == 200
    told = [json.loads(JsonFormatter().format(record)) for record in caplog.records]
    stalled = [line for line in told if line["event"] == "stalled"]
    assert stalled
    assert all(line["level"] == "error" and "still" in line["where"] for line in stalled)


def test_a_server_whose_engine_stands_still_can_be_stopped(
    talking_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("halfbyte.api.async_engine.END_SECONDS", 0.2)
    llm = LLM(talking_model, "w8a16", threads=1, num_tokens=512, page_size=16)
    still, answers = Still(llm.model.runtime, monkeypatch), list[httpx.Response]()
    running = AsyncEngine(llm)
    options = ServeOptions(port=0, drain_seconds=0.1)
    server, listener = Server(running, options), bound(options.host, 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1/completions"
    serving = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    serving.start()
    _until(lambda: server.started)
    bodies: list[dict[str, Any]] = [BODY, BODY | {"stream": True}]
    threads = [
        threading.Thread(target=lambda body=body: answers.append(httpx.post(url, json=body)))
        for body in bodies
    ]
    for thread in threads:
        thread.start()
    assert still.stands.wait(10)
    _until(lambda: running.snapshot().requests == 2)
    server.should_exit = True
    for thread in (*threads, serving):
        thread.join(10)
    still.goes_on.set()
    listener.close()
    assert not serving.is_alive()
    assert sorted(answer.status_code for answer in answers) == [200, 503]
    streamed = next(answer.text for answer in answers if answer.status_code == 200)
    assert json.loads(streamed.strip().split("\n\n")[-1][6:])["error"]["code"] == "stopped"


class _Engine:
    """What a watchdog sees of one."""

    stalled_seconds = 0.0

    def where(self) -> str:
        return "here"


def test_it_tells_once_a_minute_not_at_every_look(caplog: pytest.LogCaptureFixture) -> None:
    engine = _Engine()
    dog = Watchdog(engine)  # type: ignore[arg-type]
    with caplog.at_level(logging.INFO, LOGGER):
        for seconds in [0, 0, 5, *range(10, 200, 5), 0, 5, *range(10, 130, 5), 3]:
            engine.stalled_seconds = float(seconds)
            dog.look()
    events = [record.getMessage() for record in caplog.records]
    assert events == ["stalled"] * 3 + ["went on"] + ["stalled"] * 1 + ["went on"]
    assert dog.num_stalls == 2
