"""Options that several verbs share, declared once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from halfbyte.cascade.ngram import NgramOptions
    from halfbyte.draft_vocabulary import DraftVocabulary

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
    int,
    typer.Option(
        "--draft-length", "-k", help="Most tokens drafted per cycle; `auto` sets it itself."
    ),
]
MinConfidence = Annotated[
    float,
    typer.Option(help="A draft stops at a token less likely than this; 0 never stops early."),
]
InnerLength = Annotated[
    int, typer.Option(help="Of A > B > C, most tokens A proposes to B at a time.")
]
NgramRange = Annotated[
    str, typer.Option("--ngram", metavar="MIN:MAX", help="Tokens that `ngram` matches.")
]
NgramHistory = Annotated[
    int, typer.Option(help="Tokens of earlier outputs that `ngram` searches too.")
]
DraftVocab = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        help="Levels draft from this many tokens only, the most frequent.  [default: all]"
    ),
]
DraftVocabFrom = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        metavar="FILE",
        help="Text to count them in, or a .json list of ids.  [default: lower ids first]",
    ),
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
DEFAULT_INNER_LENGTH = 4
DEFAULT_NGRAM = "2:24"
DEFAULT_NUM_TOKENS = 8192


def ngram_options(given: str, history: int) -> NgramOptions:
    """`MIN:MAX` and the length of the history."""
    from halfbyte.cascade.ngram import NgramOptions
    from halfbyte.errors import ArgumentError

    least, _, most = given.partition(":")
    if not (least.isdecimal() and most.isdecimal() and len(given) < 20):
        raise ArgumentError(
            "--ngram", got=repr(given), expected="MIN:MAX", fix=f"for example {DEFAULT_NGRAM}"
        )
    return NgramOptions(int(least), int(most), history)


def draft_vocabulary(size: int | None, source: str | None) -> DraftVocabulary | None:
    """The tokens that levels draft from; None: all."""
    from halfbyte.draft_vocabulary import DraftVocabulary
    from halfbyte.errors import ArgumentError

    if size is None and source is not None:
        raise ArgumentError(
            "--draft-vocab-from",
            got=source,
            expected="--draft-vocab beside it",
            fix="say how many tokens, for example --draft-vocab 8192",
        )
    return None if size is None else DraftVocabulary(size, source)
