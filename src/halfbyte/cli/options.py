"""Options that several verbs share, declared once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, Optional, get_type_hints

import typer

from halfbyte.cli.output import conversion_progress

if TYPE_CHECKING:
    from halfbyte.api.llm import LLM
    from halfbyte.cascade.cascade import Cascade
    from halfbyte.proposers.ngram import NgramOptions
    from halfbyte.text.draft_vocabulary import DraftVocabulary

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

DraftLength = Annotated[
    int,
    typer.Option(
        "--draft-length", "-k", help="Most tokens drafted per cycle; `auto` sets it itself."
    ),
]

DEFAULT_DRAFT_LENGTH = 3
DEFAULT_INNER_LENGTH = 4
DEFAULT_MAX_BATCH = 8
DEFAULT_NUM_TOKENS = 8192
DEFAULT_NGRAM = "2:24"


@dataclass(frozen=True, slots=True)
class LlmOptions:
    """How a model is run: options of every verb that decodes with one (see `with_llm_options`)."""

    draft_length: DraftLength = DEFAULT_DRAFT_LENGTH
    inner_length: Annotated[
        int, typer.Option(help="Of A > B > C, most tokens A proposes to B at a time.")
    ] = DEFAULT_INNER_LENGTH
    min_confidence: Annotated[
        float,
        typer.Option(help="A draft stops at a token less likely than this; 0 never stops early."),
    ] = 0.0
    ngram: Annotated[
        str, typer.Option("--ngram", metavar="MIN:MAX", help="Tokens that `ngram` matches.")
    ] = DEFAULT_NGRAM
    ngram_history: Annotated[
        int, typer.Option(help="Tokens of earlier outputs that `ngram` searches too.")
    ] = 0
    draft_vocab: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            help="Levels draft from this many tokens only, the most frequent.  [default: all]"
        ),
    ] = None
    draft_vocab_from: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="FILE",
            help="Text to count them in, or a .json list of ids.  [default: lower ids first]",
        ),
    ] = None
    threads: Threads = None

    def open(
        self,
        ckpt: str,
        cascade: str | Cascade | None,
        *,
        max_batch: int = DEFAULT_MAX_BATCH,
        num_tokens: int = DEFAULT_NUM_TOKENS,
    ) -> LLM:
        """The model, converted on first use."""
        from halfbyte.api.llm import LLM

        with conversion_progress() as progress:
            return LLM(
                ckpt,
                cascade,
                self.threads,
                draft_length=self.draft_length,
                inner_length=self.inner_length,
                min_confidence=self.min_confidence,
                ngram=_ngram_options(self.ngram, self.ngram_history),
                draft_vocab=_draft_vocabulary(self.draft_vocab, self.draft_vocab_from),
                max_batch=max_batch,
                num_tokens=num_tokens,
                progress=progress,
            )


def with_llm_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command as typer is to see it: with the fields of `LlmOptions` for its `llm_options`."""
    given = list(inspect.signature(command, eval_str=True).parameters.values())
    types = get_type_hints(LlmOptions, include_extras=True)
    shared = [
        inspect.Parameter(
            f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=types[f.name]
        )
        for f in fields(LlmOptions)
    ]
    shown: list[inspect.Parameter] = []
    for parameter in given:
        one = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)]
        shown += shared if parameter.name == "llm_options" else one

    @functools.wraps(command)
    def run(**values: Any) -> None:
        options = LlmOptions(**{f.name: values.pop(f.name) for f in fields(LlmOptions)})
        command(**values, llm_options=options)

    run.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    del run.__wrapped__
    return run


def _ngram_options(given: str, history: int) -> NgramOptions:
    """`MIN:MAX` and the length of the history."""
    from halfbyte.errors import ArgumentError
    from halfbyte.proposers.ngram import NgramOptions

    least, _, most = given.partition(":")
    if not (least.isdecimal() and most.isdecimal() and len(given) < 20):
        raise ArgumentError(
            "--ngram", got=repr(given), expected="MIN:MAX", fix=f"for example {DEFAULT_NGRAM}"
        )
    return NgramOptions(int(least), int(most), history)


def _draft_vocabulary(size: int | None, source: str | None) -> DraftVocabulary | None:
    """The tokens that levels draft from; None: all."""
    from halfbyte.errors import ArgumentError
    from halfbyte.text.draft_vocabulary import DraftVocabulary

    if size is None and source is not None:
        raise ArgumentError(
            "--draft-vocab-from",
            got=source,
            expected="--draft-vocab beside it",
            fix="say how many tokens, for example --draft-vocab 8192",
        )
    return None if size is None else DraftVocabulary(size, source)
