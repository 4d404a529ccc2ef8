"""Task files of lm-evaluation-harness over local files: what is asked, read, counted and kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")

from lm_eval.tasks import TaskManager

from halfbyte.api.llm import LLM
from halfbyte.cascade.cascade import Cascade
from halfbyte.errors import ArgumentError, SourceError
from halfbyte.evaluate import harness_tasks, result_rows
from halfbyte.evaluate.harness import HalfbyteLM
from halfbyte.evaluate.harness_tasks import HarnessTask, program, task_names, with_docs
from halfbyte.evaluate.run import evaluate
from halfbyte.evaluate.sandbox import Limits, run_python
from halfbyte.evaluate.scorer import Scorer
from halfbyte.evaluate.subject import Subject
from halfbyte.evaluate.tasks.catalog import TaskOptions, parse_tasks

PROBLEM = {
    "task_id": "Test/0",
    "prompt": 'def double(x):\n    """Twice x."""\n',
    "entry_point": "double",
    "test": "def check(f):\n    assert f(2) == 4\n    assert f('a') == 'aa'\n",
}
FORMS: dict[str, dict[str, Any]] = {
    "gsm8k": {"question": "How many is 3?", "answer": "It is 3.\n#### 3"},
    "champ": {"question": "1 + 1?", "answer": "2"},
    "humaneval": PROBLEM,
}
CHOICE = {"question": "Why? ", "options": "A. so\nB. no", "answer": "B. no"}


@pytest.fixture
def subject(talking_llm: LLM) -> Subject:
    return Subject(talking_llm, "tiny", "fingerprint")


def data(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def loaded(task: HarnessTask) -> Any:
    """The task as the harness sees it."""
    return TaskManager(include_defaults=False).load([with_docs(task)])["tasks"][task.name]


def scored(task: HarnessTask, text: str) -> dict[str, float]:
    """What the harness makes of one answer to the first doc."""
    found = loaded(task)
    found.build_all_requests(rank=0, world_size=1)
    for instance in found.instances:
        instance.resps = [text]
    found.apply_filters()
    doc = found.eval_docs[0]
    return {
        name: found.process_results(doc, [found.instances[0].filtered_resps[name]])[metric]
        for name in found.instances[0].filtered_resps
        for metric in ("exact_match",)
    }


@pytest.mark.parametrize("name", task_names())
def test_every_task_file_runs_offline_and_gives_rows(
    tmp_path: Path, subject: Subject, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network"))
    file = data(tmp_path / "data.jsonl", *[FORMS.get(name, CHOICE)] * 3)
    [task] = parse_tasks([f"{name}={file}"], TaskOptions(allow_code=name == "humaneval"))
    assert isinstance(task, HarnessTask)
    if task.generates:
        task = HarnessTask(name, file, max_tokens=4)
    rows = evaluate(task, subject, tmp_path / "out")
    assert rows
    for row in rows:
        assert (row.task, row.items, row.total, row.level) == (name, 3, 3, "w8a16")
        assert 0 <= row.value <= 1
    assert result_rows.read(tmp_path / "out" / "rows.jsonl") == rows


def test_worked_examples_stand_before_the_question(tmp_path: Path) -> None:
    task = HarnessTask("gsm8k", data(tmp_path / "d.jsonl", FORMS["gsm8k"]))
    found = loaded(task)
    found.build_all_requests(rank=0, world_size=1)
    prompt, how = found.instances[0].args
    assert prompt.startswith("Q: A baker has 24 rolls.")
    assert prompt.count("The answer is") == 8
    assert prompt.endswith("The answer is 13.\n\nQ: How many is 3?\nA:")
    assert how["max_gen_toks"] == 256
    assert not how["do_sample"]


def test_other_examples_can_be_given(tmp_path: Path) -> None:
    rows = [
        {"question": f"Q{i}", "answer": f"it is <<1+{i}={i + 1}>>{i + 1}\n#### {i + 1}"}
        for i in range(9)
    ]
    file, shots = data(tmp_path / "d.jsonl", FORMS["gsm8k"]), data(tmp_path / "s.jsonl", *rows)
    found = loaded(HarnessTask("gsm8k", file, shots=shots))
    found.build_all_requests(rank=0, world_size=1)
    prompt, _ = found.instances[0].args
    assert prompt.startswith("Q: Q0\nA: it is 1 The answer is 1.\n\nQ: Q1\n")
    assert prompt.count("The answer is") == 8
    with pytest.raises(SourceError, match="8 with question"):
        HarnessTask("gsm8k", file, shots=data(shots, *rows[:7])).config()


@pytest.mark.parametrize(
    ("text", "answer", "strict", "flexible"),
    [
        (" So 3 + 4 = 7. The answer is 7.", "7", 1, 1),
        ("The answer is $1,234.00 dollars", "1234", 1, 1),
        ("the answer is -12.\n\nQ: 5", "-12", 1, 0),
        ("The final answer is: **18**", "18", 1, 1),
        ("It costs 5 in 2 ways", "2", 0, 1),
        ("The answer is unknown", "2", 0, 0),
        ("The answer is 3. The answer is 4.", "3", 1, 0),
        ("The answer is 16 * 10 = 160 dollars.", "160", 0, 1),
        ("The answer is 70,000", "70000", 1, 1),
    ],
)
def test_the_answer_of_a_solution(
    tmp_path: Path, text: str, answer: str, strict: int, flexible: int
) -> None:
    doc = {"question": "?", "answer": f"so\n#### {answer}"}
    task = HarnessTask("gsm8k", data(tmp_path / "d.jsonl", doc))
    assert scored(task, text) == {"strict-match": strict, "flexible-extract": flexible}


@pytest.mark.parametrize(
    ("text", "reference", "right"),
    [
        ("so the answer is 239.", "239", 1),
        ("The answer is 240.", "239", 0),
        ("The answer is $n(n-3)/2$.", "n(n - 3)/2", 1),
        ("The answer is 1. No, the answer is\n2. The answer is 2", "2", 1),
        ("The answer is 252", "C(10, 5), or equivalently 252", 1),
        ("The answer is 100.", "100 (i.e., all values)", 1),
        ("2", "2", 0),
    ],
)
def test_a_champ_answer_counts_if_it_is_the_reference(
    tmp_path: Path, text: str, reference: str, right: int
) -> None:
    task = HarnessTask("champ", data(tmp_path / "d.jsonl", {"question": "?", "answer": reference}))
    assert scored(task, text) == {"stated": right}


def test_options_follow_the_question_or_are_listed_by_letter(tmp_path: Path) -> None:
    def asked(name: str) -> list[Any]:
        found = loaded(HarnessTask(name, data(tmp_path / "d.jsonl", CHOICE)))
        found.build_all_requests(rank=0, world_size=1)
        return [instance.args for instance in found.instances]

    assert asked("piqa") == [("Question: Why?\nAnswer:", " so"), ("Question: Why?\nAnswer:", " no")]
    listed = "Why?\nA. so\nB. no\nAnswer:"
    assert asked("mmlu") == [(listed, " A"), (listed, " B")]


def test_the_answer_is_the_likeliest_continuation(tmp_path: Path, subject: Subject) -> None:
    rows = [
        {"goal": f"the thin {i}", "sol1": "in the inn", "sol2": "then there", "label": 0}
        for i in range(6)
    ]
    task = HarnessTask("piqa", data(tmp_path / "piqa.jsonl", *rows))
    found = {row.metric: row for row in evaluate(task, subject, tmp_path)}
    right = 0
    codec = subject.llm.model.codec
    for row in rows:
        context = codec.encode(f"Question: {row['goal']}\nAnswer:")
        totals = []
        for option in (row["sol1"], row["sol2"]):
            with Scorer(subject.llm.model, subject.level, max_tokens=128) as scorer:
                whole = codec.encode(f"Question: {row['goal']}\nAnswer: {option}")
                totals.append(scorer.score(context, whole[len(context) :]).logprobs.sum())
        right += totals[0] >= totals[1]
    assert found["acc"].value == right / 6
    assert "acc_norm" in found
    assert "output" not in found["acc"].details


@pytest.mark.parametrize(
    ("completion", "passes"),
    [
        ("    return x + x\n", 1.0),
        ("    return 4\n", 0.0),
        ("return x", 0.0),
        ("    import os\n    os._exit(0)\n", 0.0),
    ],
)
def test_a_function_is_right_if_its_own_tests_pass(completion: str, passes: float) -> None:
    assert harness_tasks._passes(PROBLEM, [completion]) == {"pass@1": passes}
    assert (run_python(program(PROBLEM, completion), Limits(seconds=2)) == "passed") == bool(passes)


def test_code_only_runs_where_the_user_allows_it(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="--allow-code"):
        parse_tasks([f"humaneval={tmp_path / 'x.jsonl'}"], TaskOptions())


def test_what_was_answered_is_not_asked_again_and_a_larger_limit_only_adds(
    tmp_path: Path, subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = [{"question": f"How many is {i}?", "answer": f"#### {i}"} for i in range(9)]
    task = HarnessTask("gsm8k", data(tmp_path / "d.jsonl", *docs), max_tokens=4)
    asked: list[int] = []
    generate = HalfbyteLM.generate_until

    def counted(self: HalfbyteLM, requests: Any, **more: Any) -> list[str]:
        asked.append(len(requests))
        return generate(self, requests, **more)

    monkeypatch.setattr(HalfbyteLM, "generate_until", counted)
    first = evaluate(task, subject, tmp_path, limit=3)
    again = evaluate(task, subject, tmp_path, limit=3)
    more = evaluate(task, subject, tmp_path, limit=5)
    assert [count for count in asked if count] == [3, 2]
    assert [row.value for row in again] == [row.value for row in first]
    assert (more[0].items, more[0].total, more[0].limit) == (5, 9, 5)


def test_what_a_cascade_writes_is_its_targets(tmp_path: Path, subject: Subject) -> None:
    docs = [{"question": f"How many is {i}?", "answer": f"#### {i}"} for i in range(3)]
    task = HarnessTask("gsm8k", data(tmp_path / "d.jsonl", *docs), max_tokens=24)
    plain, pair, other = (
        evaluate(task, subject.under(Cascade.parse(text)), tmp_path)[0].details["output"]
        for text in ("w8a16", "w4a8 > w8a16", "w4a4")
    )
    assert plain == pair != other


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("gsm8k", {"question": "x", "answer": "no number"}),
        ("gsm8k", {"question": 5, "answer": "1"}),
        ("mmlu", {"question": "q"}),
        ("humaneval", {"task_id": "x"}),
        ("champ", ["x"]),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, name: str, row: object) -> None:
    with pytest.raises(SourceError, match=r"bad\.jsonl"):
        HarnessTask(name, data(tmp_path / "bad.jsonl", row)).docs()


def test_a_missing_harness_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ArgumentError, match=r"halfbyte\[eval\]") as caught:
        parse_tasks([f"piqa={tmp_path / 'x'}"], TaskOptions())
    assert "\n" not in str(caught.value)
    parse_tasks([f"perplexity={tmp_path / 'x'}"], TaskOptions())


def test_a_name_that_is_nearly_one_is_corrected(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="did you mean 'hellaswag'"):
        parse_tasks(["helaswag=x"], TaskOptions())
