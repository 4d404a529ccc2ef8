"""Texts, logprobs and offsets over tokenizers of every kind: they say the same of one text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import httpx
import pytest

from halfbyte import LLM, SamplingParams
from halfbyte.sampling.params import StructuredOutputs
from tests.server.running import serving
from tests.support.talking_model import TURN, write_talking_model
from tests.support.tiny_tokenizers import KINDS

PROMPTS = {
    "byte_level": ["Hé 日🙂", " w", "<|turn|>he\n<|turn|>", "a <tool_call> b"],
    "sentencepiece": ["Hello", "Hello world 日", "<|turn|>Hello", " a  b", "é<tool_call>"],
    "sentencepiece_without_prefix": ["Hello", " Hello 🙂", "<|turn|>"],
    "metaspace": ["Hello", "Hello world"],
    "wordpiece": ["hellos world.", "do"],
}
Complete = Any


@pytest.fixture(scope="module", params=PROMPTS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def llm(kind: str, tmp_path_factory: pytest.TempPathFactory) -> LLM:
    path = write_talking_model(tmp_path_factory.mktemp("models") / kind, other=KINDS[kind]())
    return LLM(path, "w4a8 > w8a16", threads=2, num_tokens=2048, page_size=16)


@pytest.fixture(scope="module")
def client(llm: LLM) -> Iterator[httpx.Client]:
    with serving(llm) as server, server.client() as client:
        yield client


def _complete(client: httpx.Client, prompt: str | list[int], **body: Any) -> Any:
    settings = {
        "prompt": prompt,
        "max_tokens": 24,
        "temperature": 1.5,
        "seed": 5,
        "ignore_eos": True,
    }
    answer = client.post("/v1/completions", json={**settings, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]


def _streamed(client: httpx.Client, prompt: str | list[int], **body: Any) -> list[Any]:
    settings = {
        "prompt": prompt,
        "max_tokens": 24,
        "temperature": 1.5,
        "seed": 5,
        "ignore_eos": True,
    }
    answer = client.post("/v1/completions", json={**settings, **body, "stream": True})
    events = [event for event in answer.text.split("\n\n") if event.startswith("data: {")]
    return [json.loads(event[6:])["choices"][0] for event in events]


def test_an_answer_is_what_the_whole_text_has_behind_the_prompt(llm: LLM, kind: str) -> None:
    codec = llm.model.codec
    for seed, prompt in enumerate(PROMPTS[kind] * 3):
        params = SamplingParams(temperature=1.5, seed=seed, max_tokens=40, ignore_eos=True)
        got = llm.generate(prompt, params)[0]
        before = codec.decode(got.prompt_token_ids)
        assert before + got.text == codec.decode(got.prompt_token_ids + got.token_ids)
        assert "".join(chunk.text for chunk in llm.stream(prompt, params)) == got.text


def test_echo_gives_back_what_was_sent_and_the_answer_goes_on(
    client: httpx.Client, kind: str
) -> None:
    for prompt in PROMPTS[kind]:
        text = _complete(client, prompt)["text"]
        assert _complete(client, prompt, echo=True)["text"] == prompt + text
        assert "".join(c["text"] for c in _streamed(client, prompt, echo=True)) == prompt + text


def test_ids_are_echoed_with_their_control_tokens(llm: LLM, client: httpx.Client) -> None:
    ids = [*llm.model.codec.encode("Hello"), *llm.model.codec.encode("<|turn|>", as_chat=True)]
    text = _complete(client, ids, echo=True)["text"]
    assert text.startswith(llm.model.codec.decode(ids, keep_special=True))
    assert "<s>" in text
    assert "<|turn|>" in text


def _check_offsets(llm: LLM, choice: Any) -> None:
    """Each token with a text of its own stands where its offset says."""
    told, text = choice["logprobs"], choice["text"]
    assert len({len(values) for values in told.values()}) == 1
    assert told["text_offset"] == sorted(told["text_offset"])
    assert all(0 <= at <= len(text) for at in told["text_offset"])
    names = set(llm.model.codec.control_names.values())
    for at, token in zip(told["text_offset"], told["tokens"], strict=True):
        if not token.startswith("bytes:") and token not in names:
            assert text[at:].startswith(token), (at, token)


def test_offsets_point_to_the_tokens_of_the_text(llm: LLM, client: httpx.Client, kind: str) -> None:
    for prompt in PROMPTS[kind]:
        plain = _complete(client, prompt, logprobs=0)
        _check_offsets(llm, plain)
        echoed = _complete(client, prompt, logprobs=0, echo=True)
        _check_offsets(llm, echoed)
        own = len(plain["logprobs"]["tokens"])
        assert echoed["logprobs"]["tokens"][-own:] == plain["logprobs"]["tokens"]
        parts = [c["logprobs"]["text_offset"] for c in _streamed(client, prompt, logprobs=0)]
        assert [at for part in parts for at in part] == plain["logprobs"]["text_offset"]


def test_offsets_behind_a_stop_string_are_the_end(client: httpx.Client, kind: str) -> None:
    text = _complete(client, PROMPTS[kind][0])["text"]
    choice = _complete(client, PROMPTS[kind][0], stop=[text[4:9]], logprobs=0)
    assert choice["text"] == text[: text.find(text[4:9])]
    assert choice["finish_reason"] == "stop"
    assert max(choice["logprobs"]["text_offset"]) <= len(choice["text"])


def test_every_alternative_has_an_entry(client: httpx.Client, kind: str) -> None:
    for prompt in PROMPTS[kind]:
        told = _complete(client, prompt, logprobs=6, echo=True)["logprobs"]
        for token, logprob, tops in zip(
            told["tokens"], told["token_logprobs"], told["top_logprobs"], strict=True
        ):
            if tops is not None:
                assert len(tops) in (6, 7)
                assert tops[token] == logprob


def test_a_changed_text_is_still_pointed_into(llm: LLM, kind: str) -> None:
    """A normalizer may take characters away; offsets are those of the text that was sent."""
    codec = llm.model.codec
    for text in ("  Hello \u0301", "Hello\u00a0world\t a"):
        ids = codec.encode(text)
        offsets = codec.offsets(ids, text)
        assert len(offsets) == len(ids)
        assert offsets == sorted(offsets)
        assert all(0 <= at <= len(text) for at in offsets)


def test_parts_of_a_character_say_their_bytes(client: httpx.Client, kind: str) -> None:
    if kind not in ("byte_level", "sentencepiece"):
        pytest.skip("tokens are whole characters")
    wanted = {"structured_outputs": {"choice": ["日🙂é"]}}
    choice = _complete(client, "a", **wanted, logprobs=3)
    assert choice["text"] == "日🙂é"
    data = b""
    for token in choice["logprobs"]["tokens"]:
        is_part = token.startswith("bytes:")
        data += bytes.fromhex(token[6:].replace("\\x", "")) if is_part else token.encode()
    assert data.removesuffix(b"</s>") == "日🙂é".encode()
    assert any(token.startswith("bytes:") for token in choice["logprobs"]["tokens"])


@pytest.mark.parametrize("word", ["Hello", " Hello", " a  b"])
def test_a_constrained_text_that_only_control_tokens_precede_is_the_one_that_was_asked_for(
    llm: LLM, client: httpx.Client, kind: str, word: str
) -> None:
    """Some tokenizers drop a first word's space; a constraint has taken it all the same."""
    if kind == "wordpiece" or (kind == "metaspace" and "  " in word):
        pytest.skip("the tokenizer cannot spell it")
    turn = llm.model.codec.encode("<|turn|>", as_chat=True)
    wanted = {"structured_outputs": {"choice": [word]}, "logprobs": 0}
    choice = _complete(client, turn, **wanted)
    assert choice["text"] == word
    names = choice["logprobs"]["tokens"]
    assert "".join(name for name in names if name != "</s>") == word
    whole = SamplingParams(max_tokens=40, structured_outputs=StructuredOutputs(choice=[word]))
    assert llm.generate([turn], whole)[0].text == word
    assert "".join(chunk.text for chunk in llm.stream(turn, whole)) == word


def test_chat_logprobs_carry_the_bytes_of_parts(http: httpx.Client) -> None:
    body = {
        "messages": [{"role": "user", "content": "a"}],
        "structured_outputs": {"choice": ["日🙂é"]},
        "max_tokens": 40,
        "logprobs": True,
        "top_logprobs": 3,
    }
    entries = http.post("/v1/chat/completions", json=body).json()["choices"][0]["logprobs"][
        "content"
    ]
    spelled = b"".join(bytes(entry["bytes"]) for entry in entries if entry["token"] != "<eos>")
    assert spelled == "日🙂é".encode()
    assert all(top["bytes"] for entry in entries for top in entry["top_logprobs"] if top["token"])


@pytest.mark.parametrize("cascade", ["none", "w4a4 > w8a16"])
def test_a_stop_string_may_be_a_control_token(http: httpx.Client, cascade: str) -> None:
    complete = partial(_complete, http, "the", logit_bias={str(TURN): 100}, cascade=cascade)
    assert complete(temperature=0)["finish_reason"] == "length"
    choice = complete(temperature=0, stop=["<turn>"], logprobs=0)
    assert (choice["finish_reason"], choice["text"]) == ("stop", "")
    assert choice["logprobs"]["tokens"] == ["<turn>"]
    whole = complete(temperature=0, stop=["<turn><turn>"], logprobs=0)
    assert whole["logprobs"]["tokens"] == ["<turn>", "<turn>"]
    parts = _streamed(http, "the", temperature=0, stop=["<turn>"], logit_bias={str(TURN): 100})
    assert parts[-1]["finish_reason"] == "stop"
    assert "".join(part["text"] for part in parts) == ""


def test_text_pieces_of_tokenize_make_the_text(llm: LLM, client: httpx.Client, kind: str) -> None:
    for prompt in PROMPTS[kind]:
        body = {"prompt": prompt, "return_token_strs": True, "add_special_tokens": False}
        told = client.post("/tokenize", json=body).json()
        if not any("\ufffd" in piece for piece in told["token_strs"]):
            assert "".join(told["token_strs"]) == prompt
