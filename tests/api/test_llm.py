"""`LLM` over a tiny real model: exact under every cascade, batch, chunk and thread count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import halfbyte
from halfbyte import LLM, EngineOptions, RuntimeOptions, SamplingParams
from halfbyte.api.results import Completion
from halfbyte.cascade.verify import Fate
from halfbyte.errors import ArgumentError, HalfbyteError
from halfbyte.evaluate.exactness import identical
from tests.support.talking_model import EOS, VOCAB, write_talking_model
from tests.support.tiny_models import Kind

PROMPTS = ["the thing in there", "a", "0123456789" * 9, "Why?\n", "in the end, the"]
GREEDY = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
SEEDED = SamplingParams(
    temperature=0.9, top_k=50, top_p=0.95, min_p=0.01, seed=7, max_tokens=40, ignore_eos=True
)


@pytest.fixture(scope="module")
def plain(talking_llm: LLM) -> dict[SamplingParams, list[Completion]]:
    """Each prompt alone, plainly at the target."""
    alone = talking_llm.with_cascade("w8a16", prefix_cache=False)
    return {p: [alone.generate(text, p)[0] for text in PROMPTS] for p in (GREEDY, SEEDED)}


@pytest.mark.parametrize("params", [GREEDY, SEEDED], ids=["greedy", "seeded"])
@pytest.mark.parametrize("draft", ["w4a4", "w4a8", "w4a16", "w8a8", "w4a8+h8"])
def test_every_draft_gives_the_plain_tokens_and_logprobs(
    talking_llm: LLM, plain: dict[SamplingParams, list[Completion]], draft: str, params: Any
) -> None:
    got = talking_llm.with_cascade(f"{draft} > w8a16").generate(PROMPTS, params)
    assert identical(got, plain[params])
    assert identical(got, plain[params])


@pytest.mark.parametrize("draft_length", range(9))
def test_draft_length_and_confidence_do_not_change_the_output(
    talking_llm: LLM, plain: dict[SamplingParams, list[Completion]], draft_length: int
) -> None:
    for confidence in (0.0, 0.3):
        llm = talking_llm.with_cascade(
            "w4a8 > w8a16", draft_length=draft_length, min_confidence=confidence
        )
        assert identical(llm.generate(PROMPTS, SEEDED), plain[SEEDED])


@pytest.mark.parametrize(
    "options",
    [
        {"threads": 1},
        {"max_rows": 5, "max_batch": 3},
        {"page_size": 64},
        {"num_tokens": 160, "max_batch": 5},  # short of pages: some wait, some are preempted
        {"backend": "reference", "max_rows": 33},
    ],
    ids=lambda o: ",".join(f"{k}={v}" for k, v in o.items()),
)
def test_threads_chunks_pages_and_backend_tier_do_not_change_the_output(
    talking_model: Path, plain: dict[SamplingParams, list[Completion]], options: dict[str, Any]
) -> None:
    given = {"threads": 2, "num_tokens": 1024, "page_size": 16} | options
    pair = LLM(talking_model, "w4a8 > w8a16", **given)
    for params in (GREEDY, SEEDED):
        got = pair.generate(PROMPTS, params)
        if "backend" in options:
            # Another backend is its own reference: exact against its own plain run.
            assert identical(got, pair.with_cascade("w8a16").generate(PROMPTS, params))
        else:
            assert identical(got, plain[params])


def test_acceptance_is_partial_so_exactness_is_not_vacuous(talking_llm: LLM) -> None:
    fates = [f for c in talking_llm.generate(PROMPTS, GREEDY) for f in c.fates]
    assert {Fate.ACCEPTED, Fate.RECOVERED} <= set(fates)


def test_a_stream_adds_up_to_the_completion(talking_llm: LLM) -> None:
    for params in (GREEDY, SEEDED):
        whole = talking_llm.generate(PROMPTS[0], params)[0]
        chunks = list(talking_llm.stream(PROMPTS[0], params))
        assert [t for c in chunks for t in c.token_ids] == whole.token_ids
        assert [x for c in chunks for x in c.logprobs] == whole.logprobs
        assert "".join(c.text for c in chunks) == whole.text
        assert all(len(c.pieces) == len(c.fates) == len(c.token_ids) for c in chunks)
        assert chunks[-1].completion is not None
        assert chunks[-1].completion.text == whole.text
        assert [c.completion for c in chunks[:-1]] == [None] * (len(chunks) - 1)


def test_stop_strings_cut_the_text_and_keep_plain_tokens(talking_llm: LLM) -> None:
    whole = talking_llm.generate(PROMPTS[0], GREEDY)[0]
    readable = [i for i, c in enumerate(whole.text) if c != "\ufffd" and i > 3]
    stop = whole.text[readable[0]]
    params = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True, stop=stop)
    cut = talking_llm.generate(PROMPTS[0], params)[0]
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.finish_reason == "stop"
    assert cut.token_ids == whole.token_ids[: len(cut.token_ids)]
    plain_cut = talking_llm.with_cascade("w8a16").generate(PROMPTS[0], params)
    assert identical([cut], plain_cut)
    chunks = list(talking_llm.stream(PROMPTS[0], params))
    assert "".join(c.text for c in chunks) == cut.text


def test_a_stop_token_stays_in_the_ids_and_out_of_the_text(talking_llm: LLM) -> None:
    whole = talking_llm.generate(PROMPTS[0], GREEDY)[0]
    stop = whole.token_ids[7]
    params = SamplingParams(temperature=0, max_tokens=40, stop_token_ids=[stop], ignore_eos=True)
    cut = talking_llm.generate(PROMPTS[0], params)[0]
    first = whole.token_ids.index(stop)
    assert cut.token_ids == whole.token_ids[: first + 1]
    assert cut.text == talking_llm.model.codec.decode(whole.token_ids[:first])
    assert "".join(c.text for c in talking_llm.stream(PROMPTS[0], params)) == cut.text


def test_the_end_token_of_the_model_ends_a_text(talking_llm: LLM) -> None:
    assert talking_llm.model.eos_ids == {EOS}


def test_chat_writes_messages_out_by_the_template(talking_llm: LLM) -> None:
    messages = [{"role": "user", "content": "in the end"}]
    got = talking_llm.chat(messages, GREEDY)[0]
    ids = talking_llm.model.codec.encode("<turn>user: in the end\n<turn>assistant: ", as_chat=True)
    assert got.prompt_token_ids == ids
    assert identical([got], talking_llm.generate([ids], GREEDY))
    assert [c.prompt_token_ids for c in talking_llm.chat([messages, messages], GREEDY)] == [ids] * 2


def test_prompts_may_be_text_or_token_ids(talking_llm: LLM) -> None:
    ids = talking_llm.model.codec.encode("the")
    outputs = [
        talking_llm.generate(prompts, GREEDY)[0].token_ids
        for prompts in ("the", ["the"], ids, [ids])
    ]
    assert outputs[1:] == outputs[:1] * 3
    assert talking_llm.generate([], GREEDY) == []


def test_each_prompt_may_have_its_own_parameters(talking_llm: LLM) -> None:
    both = talking_llm.generate(["the", "the"], [GREEDY, SEEDED])
    assert identical(both, [talking_llm.generate("the", p)[0] for p in (GREEDY, SEEDED)])


def test_the_seed_that_was_drawn_repeats_the_run(talking_llm: LLM) -> None:
    drawn = talking_llm.generate("the", SamplingParams(max_tokens=20))[0]
    again = talking_llm.generate("the", SamplingParams(max_tokens=20, seed=drawn.seed))
    assert identical([drawn], again)


def test_two_streams_and_a_batch_share_the_pages_without_harm(
    talking_llm: LLM, plain: dict[SamplingParams, list[Completion]]
) -> None:
    one, two = (talking_llm.stream(PROMPTS[i], GREEDY) for i in (0, 1))
    tokens: list[list[int]] = [[], []]
    for a, b in zip(one, two, strict=False):
        tokens[0] += a.token_ids
        tokens[1] += b.token_ids
        assert identical(talking_llm.generate(PROMPTS[4], GREEDY), plain[GREEDY][4:5])
    for mine, whole in zip(tokens, plain[GREEDY], strict=False):
        assert mine == whole.token_ids[: len(mine)]
        assert len(mine) > 30


def test_a_stream_left_early_frees_its_pages(talking_llm: LLM) -> None:
    pool = talking_llm.model.pool
    before = pool.num_free
    stream = talking_llm.stream(PROMPTS[2], GREEDY)
    next(stream)
    assert pool.num_free < before
    stream.close()
    assert pool.num_free == before


def test_the_context_ends_a_text(tmp_path: Path) -> None:
    path = write_talking_model(tmp_path / "short", max_context=32)
    llm = LLM(path, threads=1, num_tokens=64, page_size=16)
    endless = SamplingParams(temperature=0, max_tokens=500, ignore_eos=True)
    got = llm.generate([[5] * 20], endless)[0]
    assert (len(got.token_ids), got.finish_reason) == (12, "length")
    assert identical([got], llm.with_cascade("w8a16").generate([[5] * 20], endless))
    with pytest.raises(ArgumentError, match="32 tokens"):
        llm.generate([[5] * 32], endless)


def test_a_model_without_a_tokenizer_runs_on_token_ids(tmp_path: Path) -> None:
    llm = LLM(write_talking_model(tmp_path / "mute", text=False), threads=1, num_tokens=256)
    got = llm.generate([[1, 2, 3]], GREEDY)[0]
    assert (len(got.token_ids), got.text) == (40, "")
    streamed = [t for c in llm.stream([1, 2, 3], GREEDY) for t in c.token_ids]
    assert streamed == got.token_ids
    with pytest.raises(ArgumentError, match="tokenizer"):
        llm.generate("text", GREEDY)
    with pytest.raises(ArgumentError, match="tokenizer"):
        llm.generate([[1]], SamplingParams(stop="x"))
    with pytest.raises(ArgumentError):
        llm.chat([{"role": "user", "content": "x"}], GREEDY)


def test_without_a_cascade_the_weights_decide(tmp_path: Path) -> None:
    four = write_talking_model(tmp_path / "four", kind=Kind(planes=4))
    dense = write_talking_model(tmp_path / "dense", kind=Kind(dense="f32"))
    assert str(LLM(four, None, 1, num_tokens=64).cascade) == "auto > w4a16"
    assert str(LLM(dense, None, 1, num_tokens=64).cascade) == "auto > f32"
    with pytest.raises(ArgumentError, match="--planes 8"):
        LLM(four, "w4a8 > w8a16", 1, num_tokens=64)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"cascade": "w4a8 > f32"}, "one kind"),
        ({"cascade": "f32"}, "f32"),
        ({"backend": "gpu"}, "backend"),
        ({"num_tokens": 0}, "num_tokens"),
        ({"num_tokens": 1 << 29}, "KV"),
        ({"max_rows": 0}, "max_rows"),
        ({"page_size": 7}, "page_size"),
        ({"kv_dtype": "f8"}, "kv_dtype"),
        ({"threads": 0}, "threads"),
        ({"tier": "z80"}, "tier"),
        ({"draft_length": 1025}, "draft_length"),
        ({"min_confidence": 2.0}, "min_confidence"),
        ({"min_confidence": float("nan")}, "min_confidence"),
        ({"prefill_rows": 0}, "prefill_rows"),
        ({"prefix_cache": 1.5}, "prefix_cache"),
        ({"draft_lenght": 3}, "did you mean 'draft_length'"),
        ({"num_token": 64}, "did you mean 'num_tokens'"),
        ({"zebra": 1}, "one of draft_length, .*max_rows; leave it out"),
    ],
)
def test_options_that_cannot_work_are_named(
    talking_model: Path, options: dict[str, Any], match: str
) -> None:
    with pytest.raises(HalfbyteError, match=match):
        LLM(talking_model, **options)


def test_classes_of_options_and_single_ones_are_one_thing(talking_model: Path) -> None:
    engine, runtime = EngineOptions(draft_length=5), RuntimeOptions(threads=1, num_tokens=256)
    llm = LLM(talking_model, "w8a16", engine=engine, runtime=runtime)
    assert llm.options is engine
    assert llm.model.options is runtime
    llm = LLM(talking_model, "w8a16", 2, engine=engine, runtime=runtime, prefill_rows=7)
    assert llm.options == EngineOptions(draft_length=5, prefill_rows=7)
    assert llm.model.options == RuntimeOptions(threads=2, num_tokens=256)
    other = llm.with_cascade("w4a8 > w8a16", draft_length=2, min_confidence=None)
    assert other.options == EngineOptions(draft_length=2, prefill_rows=7)
    assert other.with_cascade("w8a16", engine=EngineOptions()).options == EngineOptions()
    with pytest.raises(ArgumentError, match="did you mean 'inner_length'"):
        llm.with_cascade("w8a16", inner_lenght=2)


@pytest.mark.parametrize(
    "given", [{"threads": 1}, {"num_tokens": 64}, {"runtime": RuntimeOptions()}, {"planes": 4}]
)
def test_a_loaded_model_is_not_built_anew(talking_llm: LLM, given: dict[str, Any]) -> None:
    assert LLM(talking_llm.model, "w8a16", draft_length=1).model is talking_llm.model
    with pytest.raises(ArgumentError, match=next(iter(given))):
        LLM(talking_llm.model, "w8a16", **given)


@pytest.mark.parametrize("name", halfbyte.__all__)
def test_what_is_public_is_found_in_the_package(name: str) -> None:
    assert getattr(halfbyte, name) is not None
    assert name in dir(halfbyte)


@pytest.mark.parametrize("prompts", [3, None, [None], [[]], [[-1]], [[VOCAB]], [["a"]], {"a": 1}])
def test_what_is_no_prompt_is_refused(talking_llm: LLM, prompts: Any) -> None:
    with pytest.raises(ArgumentError, match="prompt"):
        talking_llm.generate(prompts, GREEDY)


def test_parameters_must_match_the_prompts(talking_llm: LLM) -> None:
    with pytest.raises(ArgumentError, match="params"):
        talking_llm.generate(["a", "b"], [GREEDY])
