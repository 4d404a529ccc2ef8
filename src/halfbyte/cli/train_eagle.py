"""`halfbyte train-eagle`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from halfbyte.cli.options import Ckpt, Json, Threads
from halfbyte.cli.output import item_progress, note, print_json


def train_eagle(
    ckpt: Ckpt,
    dest: Annotated[
        Path, typer.Argument(metavar="DEST", help="New directory for the head; must not exist.")
    ],
    work: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Texts, features and state of the run.  [default: DEST.work]"),
    ] = None,
    kind: Annotated[str, typer.Option(help="eagle, or eagle3 with features of 3 layers.")] = (
        "eagle"
    ),
    level: Annotated[str, typer.Option(help="Target level whose features it learns.")] = "w8a16",
    texts: Annotated[int, typer.Option(help="Texts the model writes to learn from.")] = 256,
    max_tokens: Annotated[int, typer.Option(help="Most tokens of an answer.")] = 256,
    draft_vocab: Annotated[int, typer.Option(help="Most frequent tokens the head scores.")] = 8192,
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 400,
    batch: Annotated[int, typer.Option(help="Pieces of text per step.")] = 8,
    length: Annotated[int, typer.Option(help="Tokens of a piece.")] = 128,
    unrolls: Annotated[int, typer.Option(help="Drafted tokens it is trained through.")] = 3,
    rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-3,
    seed: Annotated[
        int, typer.Option(help="Seed of texts, their order and the first parameters.")
    ] = 0,
    seconds: Annotated[
        float, typer.Option(help="Stop fitting after so long; run again to go on. 0: never.")
    ] = 0.0,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Train an EAGLE draft head for a model, on texts it writes itself.

    Every part is kept in the work directory: a run that was stopped goes on where it was.
    """
    from halfbyte.api.llm import LLM
    from halfbyte.errors import ArgumentError
    from halfbyte.train.options import TrainOptions

    try:
        from halfbyte.train.run import train
    except ImportError as error:
        raise ArgumentError(
            "train-eagle",
            got=str(error),
            expected="torch",
            fix="pip install 'halfbyte[train]'",
        ) from error
    options = TrainOptions(
        kind=kind,
        level=level,
        texts=texts,
        max_tokens=max_tokens,
        draft_vocab=draft_vocab,
        steps=steps,
        batch=batch,
        length=length,
        unrolls=unrolls,
        rate=rate,
        seed=seed,
        seconds=seconds,
    )
    llm = LLM(ckpt, level, threads, max_batch=16, prefix_cache=False)
    aside = work or dest.with_name(f"{dest.name}.work")
    with item_progress("training") as progress:
        trained = train(llm, dest, aside, options, progress)
    if json:
        print_json(
            {
                "steps": trained.steps,
                "head": None if trained.head is None else str(trained.head),
                "evaluation": trained.evaluation,
            }
        )
    elif trained.head is None:
        note(f"stopped after {trained.steps} of {steps} steps; run the same again to go on")
    else:
        print(f"wrote {trained.head}, {trained.steps} steps")
        print("tokens per target forward on held-out prompts:")
        for cascade, tau in trained.evaluation.items():
            print(f"  {tau:5.2f}  {cascade}")
