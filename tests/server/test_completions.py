"""/v1/completions gives what the engine gives, whole or streamed."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from halfbyte import LLM, SamplingParams
from halfbyte.server.sse import event
from tests.server.running import NAME, Served, serving

GREEDY = {"temperature": 0, "max_tokens": 24, "ignore_eos": True}


def events(text: str) -> list[Any]:
    """Decoded events; the end mark must be the last."""
    lines = [line[6:] for line in text.split("\n\n") if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def complete(http: httpx.Client, **body: Any) -> Any:
    answer = http.post("/v1/completions", json={"prompt": "the thing", **GREEDY, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_text_and_logprobs_are_those_of_plain_decoding(
    http: httpx.Client, talking_llm: LLM
) -> None:
    params = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)
    alone = talking_llm.with_cascade("w8a16").generate("the thing", params)[0]
    answer = complete(http, logprobs=0)
    choice = answer["choices"][0]
    assert choice["text"] == alone.text
    assert choice["logprobs"]["token_logprobs"] == alone.logprobs
    assert choice["finish_reason"] == "length"
    assert answer["model"] == NAME
    usage = answer["usage"]
    assert usage["completion_tokens"] == 24
    assert usage["prompt_tokens"] == len(alone.prompt_token_ids)


def test_a_stream_adds_up_to_the_whole(http: httpx.Client) -> None:
    whole = complete(http)
    with http.stream(
        "POST",
        "/v1/completions",
        json={
            "prompt": "the thing",
            **GREEDY,
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    ) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        got = events("".join(answer.iter_text()))
    *chunks, last = got
    assert "".join(c["choices"][0]["text"] for c in chunks) == whole["choices"][0]["text"]
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert last["choices"] == []
    assert last["usage"] == whole["usage"]


@pytest.mark.parametrize("cascade", ["none", "w8a16", None, "w4a4 > w8a16"])
def test_every_cascade_gives_the_same_text(http: httpx.Client, cascade: str | None) -> None:
    plain = complete(http, cascade="w8a16", seed=3, temperature=0.9)
    got = complete(http, cascade=cascade, seed=3, temperature=0.9, return_fates=True)
    assert got["choices"][0]["text"] == plain["choices"][0]["text"]
    told = got["choices"][0]["halfbyte"]
    assert len(told["fates"]) == 24
    assert "".join(told["pieces"]) == got["choices"][0]["text"]
    drafted = cascade not in ("none", "w8a16")
    assert ("accepted" in told["fates"]) == drafted
    assert (told["statistics"]["tau"] > 1) == drafted


def test_prompts_times_n_are_indexed_in_order(http: httpx.Client) -> None:
    prompts = ["the thing", [1, 2, 3]]
    answer = complete(http, prompt=prompts[:1], n=3, seed=5, temperature=1.0)
    assert [c["index"] for c in answer["choices"]] == [0, 1, 2]
    assert len({c["text"] for c in answer["choices"]}) == 3
    again = complete(http, seed=5, temperature=1.0)
    assert again["choices"][0]["text"] == answer["choices"][0]["text"]
    two = complete(http, prompt=["the thing", "in"], n=2, seed=5, temperature=1.0)
    assert [c["index"] for c in two["choices"]] == [0, 1, 2, 3]
    assert two["choices"][0]["text"] == answer["choices"][0]["text"]


def test_best_of_returns_the_likeliest(http: httpx.Client) -> None:
    many = complete(http, n=4, seed=1, temperature=1.0, logprobs=0)
    best = max(many["choices"], key=lambda c: sum(c["logprobs"]["token_logprobs"]))
    got = complete(http, best_of=4, seed=1, temperature=1.0)
    assert [c["text"] for c in got["choices"]] == [best["text"]]


def test_echo_puts_the_prompt_first(http: httpx.Client) -> None:
    plain = complete(http)["choices"][0]["text"]
    assert complete(http, echo=True)["choices"][0]["text"] == "the thing" + plain


def test_stop_strings_end_the_text_before_them(http: httpx.Client) -> None:
    text = complete(http)["choices"][0]["text"]
    stop = text[6:9]
    choice = complete(http, stop=[stop])["choices"][0]
    assert choice["text"] == text[: text.index(stop)]
    assert choice["finish_reason"] == "stop"


def test_token_ids_are_a_prompt(http: httpx.Client, served: Served) -> None:
    ids = http.post("/tokenize", json={"prompt": "the thing"}).json()["tokens"]
    assert complete(http, prompt=ids)["choices"] == complete(http)["choices"]
    text = http.post("/detokenize", json={"tokens": ids}).json()["prompt"]
    assert text == "<bos>the thing"


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1e", "\r"])
def test_an_event_is_one_line_for_every_client(character: str) -> None:
    """Python's own splitlines ends lines at all of these."""
    values = {"text": f"a{character}b\n", f"k{character}": 1}
    lines = event(values).decode().splitlines()
    assert len(lines) == 2
    assert json.loads(lines[0].removeprefix("data: ")) == values


@pytest.mark.parametrize("stream", [False, True])
def test_cached_tokens_are_told(talking_llm: LLM, stream: bool) -> None:
    ids = [*range(150 + stream, 60 + stream, -1)]  # of no other test
    asked = {"max_tokens": 2, "stream": stream, "stream_options": {"include_usage": True}}
    found = []
    with serving(talking_llm) as server, server.client() as http:
        for prompt in (ids, ids, [ids, ids]):
            text = http.post("/v1/completions", json={"prompt": prompt, **asked}).text
            last = events(text)[-1] if stream else json.loads(text)
            found.append(last["usage"]["prompt_tokens_details"]["cached_tokens"])
    assert found == [0, 80, 160]  # whole pages of 16
