"""What constrains the text holds to the last token, whole or streamed, whatever drafts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from halfbyte import LLM
from tests.server.running import Served, serving
from tests.support.talking_model import CHAT_TEMPLATE, write_talking_model

USER = [{"role": "user", "content": "a"}]
SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["cat", "dog"]}, "legs": {"type": "integer", "maximum": 9}},
    "required": ["kind", "legs"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "look", "parameters": SCHEMA}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "animal", "schema": SCHEMA}}
CASCADES = ["none", "w4a4 > w8a16"]


@pytest.fixture(scope="module")
def tooled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A model whose template knows tools."""
    template = "{% if tools %}<tool_call>{{ tools | tojson }}{% endif %}" + CHAT_TEMPLATE
    path = write_talking_model(tmp_path_factory.mktemp("models") / "tools", template=template)
    llm = LLM(Path(path), "w4a8 > w8a16", threads=2, num_tokens=2048, page_size=16)
    with serving(llm) as server:
        yield server


def _chat(http: httpx.Client, **body: Any) -> Any:
    settings = {"messages": USER, "max_tokens": 200, "temperature": 1.0, "seed": 4}
    answer = http.post("/v1/chat/completions", json={**settings, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]


def _check_animal(value: Any) -> None:
    assert set(value) == {"kind", "legs"}
    assert value["kind"] in ("cat", "dog")
    assert isinstance(value["legs"], int)


@pytest.mark.parametrize("cascade", CASCADES)
def test_json_follows_its_schema(http: httpx.Client, cascade: str) -> None:
    choice = _chat(http, response_format=FORMAT, cascade=cascade)
    assert choice["finish_reason"] == "stop"
    _check_animal(json.loads(choice["message"]["content"]))


def test_every_cascade_gives_the_same_constrained_text(http: httpx.Client) -> None:
    texts = {_chat(http, response_format=FORMAT, cascade=c)["message"]["content"] for c in CASCADES}
    assert len(texts) == 1


@pytest.mark.parametrize(
    ("wanted", "allowed"),
    [({"choice": ["yes", "no"]}, {"yes", "no"}), ({"regex": "(ab|cd)"}, {"ab", "cd"})],
)
def test_choices_and_expressions_are_followed(
    http: httpx.Client, wanted: Any, allowed: set[str]
) -> None:
    assert _chat(http, structured_outputs=wanted)["message"]["content"] in allowed


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "look"}}])
def test_a_forced_call_is_a_call_of_an_offered_tool(tooled: Served, choice: Any) -> None:
    with tooled.client() as http:
        answer = _chat(http, tools=[TOOL], tool_choice=choice)
        assert answer["finish_reason"] == "tool_calls"
        assert answer["message"]["content"] is None
        (call,) = answer["message"]["tool_calls"]
        assert call["function"]["name"] == "look"
        _check_animal(json.loads(call["function"]["arguments"]))


def test_a_streamed_call_is_the_same_call(tooled: Served) -> None:
    body = {"messages": USER, "tools": [TOOL], "tool_choice": "required", "stream": True}
    with tooled.client() as http:
        answer = http.post("/v1/chat/completions", json={**body, "temperature": 1.0, "seed": 4})
        events = [json.loads(e[6:]) for e in answer.text.split("\n\n") if e.startswith("data: {")]
        calls = [c for e in events for c in e["choices"][0]["delta"].get("tool_calls", ())]
        whole = _chat(http, tools=[TOOL], tool_choice="required", max_tokens=400)
    assert [c["function"] for c in calls] == [c["function"] for c in whole["message"]["tool_calls"]]
    assert [c["index"] for c in calls] == [0]


@pytest.mark.parametrize(
    "body",
    [
        {"response_format": {"type": "json_schema"}},
        {"response_format": FORMAT, "structured_outputs": {"regex": "a"}},
        {"structured_outputs": {}},
        {"structured_outputs": {"regex": "a", "choice": ["b"]}},
        {"structured_outputs": {"regex": "("}},
        {"structured_outputs": {"grammar": 'start: %import "/etc/passwd"'}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"$ref":
            "file:///etc/passwd"}}}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"$ref":
            "http://localhost/x"}}}},
        {"tool_choice": "required"},
    ],
)  # fmt: skip
def test_constraints_that_cannot_be_are_400_and_fetch_nothing(
    http: httpx.Client, body: Any
) -> None:
    answer = http.post("/v1/chat/completions", json={"messages": USER, "max_tokens": 5, **body})
    assert answer.status_code == 400, answer.text
    assert "\n" not in answer.json()["error"]["message"]
    assert "root:" not in answer.text


BAD = ({"const": 2**70 + 1}, {"type": "string", "pattern": "(?=a)b"}, {"const": "x" * 70_000})


@pytest.mark.parametrize("schema", BAD, ids=["integer", "look-ahead", "size"])
@pytest.mark.parametrize("several", [False, True])
def test_a_refused_schema_is_told_by_the_field_the_client_sent(
    http: httpx.Client, schema: Any, several: bool
) -> None:
    inside = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    bad = {"type": "function", "function": {"name": "g", "parameters": inside}}
    tools = {"tools": [TOOL, bad], "tool_choice": "required"}
    if not several:
        tools["tool_choice"] = {"type": "function", "function": {"name": "g"}}
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": inside}}
    for field, body in (
        ("tools", tools),
        ("response_format", {"response_format": form}),
        ("structured_outputs", {"structured_outputs": {"json": inside}}),
    ):
        answer = http.post("/v1/chat/completions", json={"messages": USER, **body})
        assert answer.status_code == 400, answer.text
        error = answer.json()["error"]
        assert error["param"].split(".")[0] == field
        assert error["message"].startswith(field)
        if field == "tools" and not several:
            assert error["param"] == "tools.1.function.parameters"


def test_the_likeliest_tokens_stand_beside_each(http: httpx.Client) -> None:
    choice = _chat(http, logprobs=True, top_logprobs=4, temperature=0, max_tokens=6)
    for entry in choice["logprobs"]["content"]:
        tops = entry["top_logprobs"]
        assert len(tops) == 4
        assert tops[0]["token"] == entry["token"]  # greedy
        assert [t["logprob"] for t in tops] == sorted((t["logprob"] for t in tops), reverse=True)


def test_echo_scores_the_prompt(http: httpx.Client) -> None:
    body = {"prompt": "the thing", "max_tokens": 3, "temperature": 0, "echo": True, "logprobs": 2}
    choice = http.post("/v1/completions", json=body).json()["choices"][0]
    scores = choice["logprobs"]
    assert scores["token_logprobs"][0] is None
    assert all(x < 0 for x in scores["token_logprobs"][1:])
    assert len({len(values) for values in scores.values()}) == 1
    prompt = list(zip(scores["text_offset"], scores["tokens"], strict=True))[:-3]
    assert prompt[0][1] == "<bos>"
    for at, token in prompt[1:]:
        assert choice["text"][at:].startswith(token)


CHANGES: list[dict[str, Any]] = [
    {"frequency_penalty": 2.0},
    {"presence_penalty": 2.0},
    {"repetition_penalty": 1.9},
    {"logit_bias": {"116": 100}},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_penalties_and_biases_change_the_text_alike_under_every_cascade(
    http: httpx.Client, change: dict[str, Any]
) -> None:
    body = {"prompt": "the", "temperature": 0, "max_tokens": 60, "ignore_eos": True}

    def text(**more: Any) -> str:
        answer = http.post("/v1/completions", json={**body, **more})
        return str(answer.json()["choices"][0]["text"])

    assert text(**change) != text()
    assert text(**change, cascade="none") == text(**change, cascade="w4a4 > w8a16")


def test_a_grammar_is_compiled_off_the_event_loop_and_once(
    served: Served, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    compiler = served.llm.model.grammars
    plain = compiler._grammar

    def noted(wanted: Any) -> str:
        seen.append(_on_a_loop())
        return plain(wanted)

    monkeypatch.setattr(compiler, "_grammar", noted)
    choice = _chat(http, structured_outputs={"regex": "[ab]{7}z"})
    assert choice["message"]["content"].endswith("z")
    assert seen == [False]


def _on_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
