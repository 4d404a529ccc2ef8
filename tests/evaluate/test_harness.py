"""lm-evaluation-harness on a tiny checkpoint: its three requests, and one of its tasks whole."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")

from halfbyte.api.llm import LLM
from halfbyte.errors import ArgumentError
from halfbyte.evaluate.harness import HalfbyteLM
from halfbyte.evaluate.scorer import Scorer
from halfbyte.sampling.params import SamplingParams


def _instances(kind: str, *arguments: Any) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, args, i) for i, args in enumerate(arguments)]


@pytest.fixture
def model(talking_llm: LLM) -> HalfbyteLM:
    return HalfbyteLM(talking_llm)


def _score(llm: LLM, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    with Scorer(llm.model, llm.cascade.target, max_tokens=256) as scorer:
        scores = scorer.score(context, continuation)
    return math.fsum(scores.logprobs), bool(scores.greedy.all())


def test_likelihoods_are_the_scorers_in_the_order_asked(
    model: HalfbyteLM, talking_llm: LLM
) -> None:
    asked = [("the thin", " inn"), ("another", " theme"), ("the thin", " then"), ("", "the")]
    found = model.loglikelihood(_instances("loglikelihood", *asked), disable_tqdm=True)
    codec = talking_llm.model.codec
    for (context, continuation), answer in zip(asked, found, strict=True):
        whole = codec.encode(context + continuation)
        cut = len(codec.encode(context)) if context else 1
        assert answer == _score(talking_llm, whole[:cut], whole[cut:])


def test_the_likeliest_token_is_greedy(model: HalfbyteLM, talking_llm: LLM) -> None:
    prompt = talking_llm.model.codec.encode("the thin")
    token = talking_llm.generate([prompt], SamplingParams(temperature=0.0, max_tokens=1))[0]
    best, other = token.token_ids[0], (token.token_ids[0] + 1) % 256
    asked = [(None, prompt, [best]), (None, prompt, [other])]
    assert [greedy for _, greedy in model._loglikelihood_tokens(asked)] == [True, False]


def test_a_rolling_likelihood_scores_every_token_once(model: HalfbyteLM, talking_llm: LLM) -> None:
    text = "the thin theme in the inn"
    ids = talking_llm.model.codec.encode(text)
    (found,) = model.loglikelihood_rolling(_instances("loglikelihood_rolling", (text,)))
    assert found == _score(talking_llm, ids[:1], ids[1:])[0]
    long = "a thing in there. " * 120  # longer than the context
    (total,) = model.loglikelihood_rolling(_instances("loglikelihood_rolling", (long,)))
    assert total < found


def test_generation_stops_where_it_is_told_to(model: HalfbyteLM, talking_llm: LLM) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=24)
    text = talking_llm.generate("the thin", params)[0].text
    until = text[6:8]
    asked = [
        ("the thin", {"until": [until], "max_gen_toks": 24, "do_sample": False}),
        ("the thin", {"until": [], "max_gen_toks": 24}),
    ]
    cut, whole = model.generate_until(_instances("generate_until", *asked), disable_tqdm=True)
    assert whole == text
    assert cut == text[: text.index(until)]


def test_a_text_that_begins_with_bos_gets_no_second_one(model: HalfbyteLM) -> None:
    once = model.tok_encode("the")
    assert model.tok_encode("<bos>the") == once
    assert model.tok_encode("the", add_special_tokens=False) == once[1:]


def test_chats_are_written_by_the_models_template(model: HalfbyteLM) -> None:
    text = model.apply_chat_template([{"role": "user", "content": "hi"}])
    assert text == "<turn>user: hi\n<turn>assistant: "
    assert model.chat_template(True)


def test_unknown_model_arguments_are_refused(talking_llm: LLM) -> None:
    with pytest.raises(ArgumentError, match="'dtype'"):
        HalfbyteLM(talking_llm, dtype="float16")


def test_a_task_of_the_harness_runs_from_a_local_file(
    tmp_path: Path, model: HalfbyteLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    rows = [{"q": f"the thin {i}", "options": [" inn", " then"], "gold": i % 2} for i in range(4)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), "utf-8")
    (tmp_path / "tiny.yaml").write_text(
        f"""
task: tiny_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {tmp_path / "data.jsonl"}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{q}}}}"
doc_to_choice: "{{{{options}}}}"
doc_to_target: gold
target_delimiter: ""
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
""",
        "utf-8",
    )
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    results = simple_evaluate(
        model=model, tasks=["tiny_choice"], task_manager=manager, bootstrap_iters=0
    )
    right = 0
    for row in rows:
        asked = [(row["q"], option) for option in row["options"]]
        scores = [s for s, _ in model.loglikelihood(_instances("loglikelihood", *asked))]
        right += scores.index(max(scores)) == row["gold"]
    assert results["results"]["tiny_choice"]["acc,none"] == right / 4
