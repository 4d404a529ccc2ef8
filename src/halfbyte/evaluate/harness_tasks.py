"""Tasks of lm-evaluation-harness over local JSON lines: `tasks/harness/*.yaml`.

The task files say how a prompt is written, an answer read and scored; docs come from the file that
the user names, so nothing is fetched. The harness itself (extra [eval]) is imported when such a
task runs.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, partialmethod
from pathlib import Path
from typing import Any
from unittest.mock import patch

from halfbyte.errors import ArgumentError, SourceError
from halfbyte.evaluate.choice_formats import read_question
from halfbyte.evaluate.data_file import data_settings, digest, read_lines
from halfbyte.evaluate.sandbox import Limits, run_python
from halfbyte.evaluate.subject import Subject
from halfbyte.evaluate.tasks.task import Metric

Doc = dict[str, Any]
DIRECTORY = Path(__file__).parent / "tasks" / "harness"
NUM_SHOTS = 8
_EQUIVALENTS = re.compile(
    r",? or (?:equivalently|approximately|an equivalent form such as) |\s*\(i\.e\.,", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class HarnessTask:
    """One data set, from a file of the user's."""

    name: str
    path: Path
    max_tokens: int | None = None  # of a completion; None: the task's own
    shots: Path | None = None  # gsm8k: worked examples

    @property
    def generates(self) -> bool:
        """Whether the model writes text; else only the target level's likelihoods count."""
        return bool(self.config()["output_type"] == "generate_until")

    @property
    def settings(self) -> dict[str, Any]:
        """The data, the task file, and what was asked for besides."""
        more = {"task_file": digest(DIRECTORY / f"{self.name}.yaml")}
        if self.max_tokens is not None:
            more["max_tokens"] = str(self.max_tokens)
        if self.shots is not None:
            more["examples"] = digest(self.shots)
        return data_settings(self.path, **more)

    def docs(self) -> list[Doc]:
        """The lines of the data file in the task's own form, each with an `id`."""
        return list(_READERS.get(self.name, _questions)(self.path))

    def config(self) -> dict[str, Any]:
        """The task file as the harness takes it, without docs."""
        import yaml

        text = (DIRECTORY / f"{self.name}.yaml").read_text(encoding="utf-8")
        config: dict[str, Any] = yaml.safe_load(text)
        if self.max_tokens is not None:
            config["generation_kwargs"]["max_gen_toks"] = self.max_tokens
        if self.shots is not None:
            config["fewshot_config"]["samples"] = _worked_examples(self.shots)
        if self.name == "humaneval":
            config["process_results"] = _passes
        return config


def task_names() -> list[str]:
    """Those there is a task file for."""
    return sorted(path.stem for path in DIRECTORY.glob("*.yaml"))


def require_harness(name: str) -> None:
    """ArgumentError, in one line, where the extra is missing."""
    if importlib.util.find_spec("lm_eval") is None:
        raise ArgumentError(
            f"task {name}",
            got="no lm-evaluation-harness",
            expected="the extra that brings it",
            fix="pip install 'halfbyte[eval]'",
        )


def run_harness(
    task: HarnessTask,
    subject: Subject,
    chosen: Sequence[int],
    responses: Path,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> list[Metric]:
    """The task over the docs `chosen`, as the harness scores it.

    What the model answers is kept in the database `responses` as it comes, and read from it when
    the same is asked again. `details` have a digest of all that was written.
    """
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    from halfbyte.evaluate.harness import HalfbyteLM

    responses.parent.mkdir(parents=True, exist_ok=True)
    with _quiet():
        found = simple_evaluate(
            model=HalfbyteLM(subject.llm, progress=partial(progress, task.name)),
            tasks=[with_docs(task)],
            samples={task.name: list(chosen)},
            task_manager=TaskManager(include_defaults=False),
            use_cache=str(responses),
            bootstrap_iters=1,  # a mean needs none, but with 0 it has no standard error either
            confirm_run_unsafe_code=True,  # `catalog` has asked the user
        )
    assert found is not None  # there is one rank
    details = {}
    if task.generates:
        ordered = sorted(found["samples"][task.name], key=lambda sample: int(sample["doc_id"]))
        texts = "\0".join(str(sample["resps"]) for sample in ordered)
        details["output"] = hashlib.sha256(texts.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return _metrics(found["results"][task.name], len(chosen), details)


def with_docs(task: HarnessTask) -> dict[str, Any]:
    """The task's configuration with its docs in memory, so that no data set is looked up."""
    from datasets import Dataset

    docs = {"test": Dataset.from_list(task.docs())}
    return task.config() | {"custom_dataset": lambda **_: docs, "test_split": "test"}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the harness's remarks and bars on every task; its errors are shown."""
    from tqdm import tqdm

    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    without = partialmethod(tqdm.__init__, disable=True)
    try:
        with patch.object(tqdm, "__init__", without):
            yield
    finally:
        logger.setLevel(before)


def _metrics(results: Mapping[str, Any], count: int, details: dict[str, str]) -> list[Metric]:
    """`exact_match,strict-match` -> `exact_match strict-match`, with its standard error."""
    found = []
    for key, value in results.items():
        name, comma, filtered = key.partition(",")
        if not comma or name.endswith("_stderr"):
            continue
        error = results.get(f"{name}_stderr,{filtered}")
        shown = name if filtered == "none" else f"{name} {filtered}"
        stderr = error if isinstance(error, float) and count > 1 else None
        found.append(Metric(shown, float(value), stderr, count, details=details))
    return found


def _questions(path: Path) -> Iterator[Doc]:
    """Multiple choice, in any of the forms that data sets are published in."""
    for number, row in enumerate(read_lines(path)):
        question = read_question(row)
        if question is None:
            raise _another_form(path, number, "a question with options and a label")
        letters = [chr(ord("A") + i) for i in range(len(question.options))]
        options = [option.strip() for option in question.options]
        listed = (f"{letter}. {option}" for letter, option in zip(letters, options, strict=True))
        yield {
            "id": str(number),
            "text": question.text.strip(),
            "options": options,
            "letters": letters,
            "listed": "\n".join(listed),
            "gold": question.gold,
        }


def _problems(path: Path) -> Iterator[Doc]:
    """GSM8K: the answer is what stands after `####`, or all of it."""
    for number, row in enumerate(read_lines(path, question=str, answer=(str, int, float))):
        answer = str(row["answer"]).rpartition("####")[2].strip()
        if not answer.replace(",", "").lstrip("-$").replace(".", "", 1).isdigit():
            raise _another_form(path, number, "a number as answer, alone or after ####")
        yield {"id": str(number), "question": row["question"], "answer": answer}


def _stated(path: Path) -> Iterator[Doc]:
    """CHAMP: `100 (i.e., all)` and `C(10, 5), or equivalently 252` state equivalents."""
    for number, row in enumerate(read_lines(path, question=str, answer=str)):
        answers = [text for text in _EQUIVALENTS.split(row["answer"]) if text.strip(" .)")]
        name = str(row.get("id", number))
        yield {"id": name, "question": row["question"], "answers": answers}


def _functions(path: Path) -> Iterator[Doc]:
    """HumanEval."""
    fields = ("prompt", "entry_point", "test")
    for row in read_lines(path, task_id=str, prompt=str, entry_point=str, test=str):
        yield {"id": row["task_id"], **{name: row[name] for name in fields}}


_READERS: Mapping[str, Callable[[Path], Iterator[Doc]]] = {
    "gsm8k": _problems,
    "champ": _stated,
    "humaneval": _functions,
}


def _worked_examples(path: Path) -> list[Doc]:
    """Lines of the training file as examples; the data set's <<3*4=12>> marks are dropped."""
    rows = list(read_lines(path, question=str, answer=str))[:NUM_SHOTS]
    if len(rows) < NUM_SHOTS:
        raise SourceError(
            f"examples {path.name}",
            got=f"{len(rows)} lines",
            expected=f"{NUM_SHOTS} with question and answer",
            fix="give more, or leave --shots out",
        )
    found = []
    for row in rows:
        thought, _, answer = row["answer"].rpartition("####")
        plain = "".join(part.rpartition(">>")[2] for part in thought.split("<<"))
        said = f"{' '.join(plain.split())} The answer is {answer.strip()}."
        found.append({"question": row["question"], "answer": said})
    return found


def _passes(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """HumanEval: whether the function and its tests, as published, run to their end."""
    return {"pass@1": float(run_python(program(doc, results[0]), Limits()) == "passed")}


def program(doc: Mapping[str, Any], completion: str) -> str:
    """A completed function and its tests."""
    return f"{doc['prompt']}{completion}\n\n{doc['test']}\n\ncheck({doc['entry_point']})\n"


def _another_form(path: Path, number: int, expected: str) -> SourceError:
    return SourceError(
        f"data file {path.name}",
        got=f"record {number} of another form",
        expected=expected,
        fix="check the file given to --task",
    )
