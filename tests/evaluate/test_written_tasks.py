"""HumanEval and CHAMP: what counts as solved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfbyte.api.llm import LLM
from halfbyte.errors import ArgumentError
from halfbyte.evaluate.formulas import same_formula
from halfbyte.evaluate.run import evaluate
from halfbyte.evaluate.sandbox import Limits, run_python
from halfbyte.evaluate.subject import Subject
from halfbyte.evaluate.tasks.champ import Champ, is_right
from halfbyte.evaluate.tasks.humaneval import HumanEval, program

PROBLEM = {
    "task_id": "Test/0",
    "prompt": 'def double(x):\n    """Twice x."""\n',
    "entry_point": "double",
    "test": "def check(f):\n    assert f(2) == 4\n    assert f('a') == 'aa'\n",
}


@pytest.mark.parametrize(
    ("completion", "verdict"),
    [
        ("    return x + x\n", "passed"),
        ("    return 4\n", "failed: AssertionError"),
        ("return x", "failed: SyntaxError"),
        ("    import os\n    os._exit(0)\n", "died"),
    ],
)
def test_a_problem_is_solved_if_its_own_tests_pass(completion: str, verdict: str) -> None:
    assert run_python(program(PROBLEM, completion), Limits(seconds=2)) == verdict


def test_code_only_runs_where_the_user_allows_it(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="--allow-code"):
        HumanEval(tmp_path / "x.jsonl")


def test_humaneval_runs_every_completion(tmp_path: Path, talking_llm: LLM) -> None:
    data = tmp_path / "problems.jsonl"
    data.write_text(json.dumps(PROBLEM) + "\n", encoding="utf-8")
    task = HumanEval(data, allow_code=True, max_tokens=8)
    row = evaluate(task, Subject(talking_llm, "tiny", "f"), tmp_path)[0]
    assert (row.metric, row.value, row.n) == ("pass@1", 0.0, 1)
    assert row.details["tokens"] <= 8


@pytest.mark.parametrize(
    ("text", "reference", "right"),
    [
        ("so the answer is 239.", "239", True),
        ("The answer is 240.", "239", False),
        ("The answer is 252", "C(10, 5), or equivalently 252", True),
        ("The answer is $\\frac{n(n-3)}{2}$.", "n(n-3)/2", True),
        ("The answer is (n^2 - 3n)/2.", "n(n-3)/2", True),
        ("The answer is (n^2 - 4n)/2.", "n(n-3)/2", False),
        ("hence \\boxed{4^n}", "4^n", True),
        ("The answer is 2^{2n}", "4^n", False),  # braces are not read: it undercounts
        ("The answer is no.", "No", True),
        ("The answer is 0.", "0 is the only possible value", True),
        ("The answer is 2", "The limit exists and is equal to 2", True),
        ("The answer is 100.", "100 (i.e., all values)", True),
        ("The answer is 1. No, the answer is 2.", "2", True),
        ("2", "2", False),
        ("The answer is sqrt(3)/3", "1/sqrt(3)", True),
    ],
)
def test_a_champ_answer_counts_if_it_is_the_reference(
    text: str, reference: str, right: bool
) -> None:
    assert is_right(text, reference) is right


def test_champ_over_a_file(tmp_path: Path, talking_llm: LLM) -> None:
    data = tmp_path / "champ.jsonl"
    data.write_text(json.dumps({"id": "a", "question": "1+1?", "answer": "2"}), encoding="utf-8")
    row = evaluate(Champ(data, 8), Subject(talking_llm, "tiny", "f"), tmp_path)[0]
    assert (row.metric, row.n) == ("exact", 1)


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("2(n+1)", "2n+2", True),
        ("n(n+1)/2", "(n+1)n/2", True),
        ("c(n,2)", "n(n-1)/2", True),
        ("n!/(n-2)!", "n(n-1)", True),
        ("2^3^2", "512", True),
        ("-2^2", "-4", True),
        ("m", "n", False),
        ("n", "n+1", False),
        ("5^13", "5^13+1", False),
        ("1/0", "1/0", False),
        ("sqrt(0-1)", "sqrt(0-1)", False),
        ("(" * 100 + "1" + ")" * 100, "1", False),
        ("9^9^9^9", "9^9^9^9", False),
        ("200!", "200!", False),
        ("__import__('os')", "__import__('os')", False),
    ],
)
def test_formulas_are_compared_as_functions(a: str, b: str, same: bool) -> None:
    assert same_formula(a, b) is same


@given(st.text(alphabet="0123456789n+-*/^()!c,. sqrtx", max_size=60))
def test_no_text_can_break_the_comparison(text: str) -> None:
    assert same_formula(text, text) in (True, False)
    assert not same_formula(text, f"({text})^2+1")  # x = x^2 + 1 has no solution
