"""The fidelity table: what levels and cascades cost in quality, beside the source they came from.

    python -m benchmarks.quality.fidelity --name smollm2-135m --source smollm2-135m \
        --scheme rtn=smollm2-135m --data DIR

DIR holds text_wiki* and gsm8k*.jsonl. Every scheme is a checkpoint of the same source; each runs at
every level and cascade of CONFIGURATIONS (or `--cascades`), the source at f32. Without `--source`
its rows are left out, and its memory spared. A count of 0 leaves a task out; only targets are
compared with the source, which runs again for each. Rows go to `--output`; an interrupted run goes
on where it stopped. Status 1 if a cascade's output differs from plain decoding at its target.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measure.arguments import count, names, positive
from benchmarks.measure.process import guarded
from benchmarks.measure.rows import RESULTS
from halfbyte.cascade.cascade import Cascade
from halfbyte.errors import ArgumentError, SourceError
from halfbyte.evaluate.reference import Reference, require_reference
from halfbyte.evaluate.result_rows import ResultRow
from halfbyte.evaluate.run import evaluate
from halfbyte.evaluate.subject import Subject, load_subject
from halfbyte.evaluate.tasks.acceptance import Acceptance
from halfbyte.evaluate.tasks.agreement import Agreement
from halfbyte.evaluate.tasks.identity import Identity
from halfbyte.evaluate.tasks.perplexity import Perplexity
from halfbyte.evaluate.tasks.task import Task

# Targets before the cascades that verify with them.
TARGETS = ("w8a16", "w4a16")
CONFIGURATIONS = (*TARGETS, "w4a4 > w4a16", "w4a8 > w8a16", "w4a4", "w4a8")
NUM_TOKENS = 16384


def main() -> None:
    arguments = _parse()
    models = [("source", arguments.source, ("f32",))] if arguments.source else []
    for scheme in arguments.scheme:
        name, _, path = scheme.partition("=")
        models.append((name, path, arguments.cascades))
    rows = [row for model in models for row in _rows_of(*model, arguments)]
    differing = [row for row in rows if row.metric == "identical" and row.value < 1]
    for row in differing:
        print(f"NOT EQUAL to its target: {row.model}, {row.cascade}", file=sys.stderr)
    if differing:
        raise SystemExit(1)


def _rows_of(
    name: str, path: str, cascades: Sequence[str], arguments: argparse.Namespace
) -> list[ResultRow]:
    """One model, loaded once."""
    subject = load_subject(
        path,
        Cascade.parse(cascades[0]),
        name=f"{arguments.name} {name}",
        threads=arguments.threads,
        num_tokens=NUM_TOKENS,
    )
    rows: list[ResultRow] = []
    for text in cascades:
        each = subject.under(Cascade.parse(text))
        rows += _run(each, _tasks(arguments, each), arguments)
    return rows


def _run(
    subject: Subject, tasks: Sequence[tuple[Task, int]], arguments: argparse.Namespace
) -> list[ResultRow]:
    rows = []
    for task, limit in tasks:
        done = evaluate(task, subject, arguments.output, limit=limit, remark=subject.remark)
        for row in done:
            if "@" not in row.metric:
                print(f"{row.model:<24} {row.cascade:<14} {row.task} {row.metric} {row.value:.4g}")
        sys.stdout.flush()
        rows += done
    return rows


def _tasks(arguments: argparse.Namespace, subject: Subject) -> list[tuple[Task, int]]:
    """(task, limit)."""
    data = arguments.data
    text = _one(data, "text_wiki*")
    gsm8k = _one(data, "gsm8k*.jsonl")
    tasks: list[tuple[Task, int]] = [(Perplexity(text), arguments.windows)]
    if str(subject.llm.cascade) in TARGETS and arguments.agreement:
        stated = f"{arguments.source}@f32"
        reference = Reference(stated, NUM_TOKENS, arguments.threads)
        tasks.append((Agreement(text, require_reference(reference), stated), arguments.agreement))
    if subject.llm.cascade.draft is not None:
        tasks.append((Acceptance(gsm8k, 96), arguments.prompts))
        tasks.append((Identity(gsm8k, 96), arguments.identity))
    return [(task, limit) for task, limit in tasks if limit]


def _one(data: Path, pattern: str) -> Path:
    found = sorted(data.glob(pattern))
    if not found:
        raise SourceError(
            "--data", got=f"no {pattern} in {data}", expected="the data sets", fix="see the top"
        )
    return found[-1]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--name", required=True, help="what rows call the model")
    parser.add_argument("--source", help="the model at f32")
    parser.add_argument("--scheme", action="append", default=[], help="NAME=CKPT; may be repeated")
    parser.add_argument("--cascades", type=names, default=CONFIGURATIONS, help="between commas")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--threads", type=positive, default=2)
    parser.add_argument("--windows", type=count, default=24, help="of 512 tokens, for perplexity")
    parser.add_argument("--agreement", type=count, default=0, help="windows, for KL and top-1")
    parser.add_argument("--prompts", type=count, default=4, help="of acceptance")
    parser.add_argument("--identity", type=count, default=8, help="prompts, for identity")
    parser.add_argument("--output", type=Path, default=RESULTS / "fidelity")
    arguments = parser.parse_args()
    if arguments.agreement and not arguments.source:
        fix = "name it, or leave --agreement out"
        raise ArgumentError("--agreement", got="no --source", expected="the model", fix=fix)
    return arguments


if __name__ == "__main__":
    guarded(main)
