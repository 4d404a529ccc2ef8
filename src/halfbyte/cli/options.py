"""Options that several verbs share, declared once."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

Ckpt = Annotated[
    str,
    typer.Argument(
        metavar="CKPT",
        help="Checkpoint directory, GGUF file, Hugging Face directory or hub id, or smollm2-135m.",
        show_default=False,
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")
]
# typer reads these at run time, where it wants Optional spelt out on every version it supports.
Threads = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option("--threads", "-t", help="Pinned threads.  [default: one a physical core]"),
]
DraftLength = Annotated[
    int, typer.Option("--draft-length", "-k", help="Most tokens drafted per cycle.")
]
MinConfidence = Annotated[
    float,
    typer.Option(help="A draft stops at a token less likely than this; 0 never stops early."),
]
NumTokens = Annotated[int, typer.Option(help="Size of the KV pool, in tokens.")]
Planes = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        help="4 or 8 planes of weights.  [default: what the source holds exactly, else 8]"
    ),
]
Group = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(help="Inputs per scale: 32, 64 or 128.  [default: 32]"),
]

DEFAULT_DRAFT_LENGTH = 3
DEFAULT_NUM_TOKENS = 8192
