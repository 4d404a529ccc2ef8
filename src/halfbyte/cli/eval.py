"""`halfbyte eval`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from halfbyte.cli.options import (
    Ckpt,
    DraftLength,
    NumTokens,
    Planes,
    Threads,
)
from halfbyte.cli.output import conversion_progress, item_progress, note
from halfbyte.engine.options import EngineOptions
from halfbyte.errors import ArgumentError
from halfbyte.runtime.options import RuntimeOptions

if TYPE_CHECKING:
    from halfbyte.evaluate.result_rows import ResultRow


def evaluate(
    ckpt: Ckpt,
    task: Annotated[
        list[str],
        typer.Option(
            "--task",
            help="NAME=FILE, may be given several times: perplexity or agreement over a text;"
            " acceptance or identity over prompts (JSON lines); gsm8k, champ, humaneval, piqa,"
            " hellaswag, openbookqa, mmlu or commonsenseqa over JSON lines (extra [eval]).",
            show_default=False,
        ),
    ],
    level: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--level", "-l", help="'w8a16', 'w4a4', 'f32' …; may be given several."),
    ] = None,
    cascade: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--cascade", "-c", help="'w4a8 > w8a16' …; may be given several."),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Directory of rows.jsonl and of the records.")
    ] = Path("eval-results"),
    limit: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Items per task, drawn in a fixed order.  [default: all]"),
    ] = None,
    name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Name of the model in rows.  [default: CKPT]"),
    ] = None,
    window: Annotated[int, typer.Option(help="perplexity, agreement: tokens per window.")] = 512,
    reference: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="agreement: LEVEL of the same weights, or MODEL@LEVEL such as SRC@f32."),
    ] = None,
    shots: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="gsm8k: JSON lines with worked examples.  [default: built in]"),
    ] = None,
    max_tokens: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            "--max-tokens", "-n", help="Most tokens of a completion.  [default: the task's own]"
        ),
    ] = None,
    allow_code: Annotated[
        bool,
        typer.Option(
            "--allow-code", help="humaneval: run the code that the model writes, in a sandbox."
        ),
    ] = False,
    draft_length: DraftLength = EngineOptions.draft_length,
    batch: Annotated[
        int, typer.Option(help="Requests decoded together.")
    ] = EngineOptions.max_batch,
    num_tokens: NumTokens = RuntimeOptions.num_tokens,
    planes: Planes = None,
    threads: Threads = None,
) -> None:
    """Measure how good a model is at given levels or under cascades.

    Results are JSON lines in OUTPUT/rows.jsonl; `halfbyte report` turns them into tables. An
    interrupted run goes on where it stopped when it is started again.
    """
    from halfbyte.cascade.cascade import Cascade
    from halfbyte.config import Level
    from halfbyte.evaluate.reference import Reference
    from halfbyte.evaluate.run import evaluate as run
    from halfbyte.evaluate.subject import load_subject
    from halfbyte.evaluate.tasks.catalog import TaskOptions, parse_tasks

    wanted = [Cascade.parse(str(Level.parse(text))) for text in level or ()]
    wanted += [Cascade.parse(text) for text in cascade or ()]
    if not wanted:
        raise ArgumentError(
            "eval", got="no level", expected="--level or --cascade", fix="for example -l w8a16"
        )
    options = TaskOptions(
        window=window,
        reference=Reference(reference, num_tokens, threads) if reference else None,
        shots=shots,
        max_tokens=max_tokens,
        allow_code=allow_code,
    )
    tasks = parse_tasks(task, options)
    with conversion_progress() as progress:
        first = load_subject(
            ckpt,
            wanted[0],
            name=name,
            threads=threads,
            draft_length=draft_length,
            max_batch=batch,
            num_tokens=num_tokens,
            planes=planes,
            progress=progress,
        )
    for each in wanted:
        subject = first.under(each)
        for one in tasks:
            with item_progress(f"{each}  {one.name}") as advance:
                rows = run(
                    one, subject, output, limit=limit, progress=advance, remark=subject.remark
                )
            for row in rows:
                print(line(row))
    note(f"rows in {output / 'rows.jsonl'}")


def line(row: ResultRow) -> str:
    """One result for people."""
    error = "" if row.stderr is None else f" ± {row.stderr:.4g}"
    part = "" if row.items == row.total else f" ({row.items} of {row.total} items)"
    return f"{row.cascade:<16} {row.task} {row.metric}: {row.value:.6g}{error}{part}"
