"""Options that several verbs share, and commands made from classes of options."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from halfbyte.cli.output import conversion_progress
from halfbyte.engine.options import EngineOptions
from halfbyte.errors import ArgumentError
from halfbyte.options import Shown, option
from halfbyte.proposers.options import NgramOptions
from halfbyte.runtime.options import RuntimeOptions

if TYPE_CHECKING:
    from halfbyte.api.llm import LLM
    from halfbyte.cascade.cascade import Cascade
    from halfbyte.text.draft_vocabulary import DraftVocabulary


def shown(cls: type, name: str) -> Any:
    """How a field of a class of options is shown, for a verb that takes this one alone."""
    return _as_option(next(f for f in fields(cls) if f.name == name).metadata["shown"])


def _as_option(how: Shown) -> Any:
    text = how.help if how.default_text is None else f"{how.help}  [default: {how.default_text}]"
    by_typer = how.default_text is None
    return typer.Option(*how.flags, help=text, metavar=how.metavar, show_default=by_typer)


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
Threads = Annotated[Optional[int], shown(RuntimeOptions, "threads")]  # noqa: UP045
NumTokens = Annotated[int, shown(RuntimeOptions, "num_tokens")]
DraftLength = Annotated[int, shown(EngineOptions, "draft_length")]
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


@dataclass(frozen=True)
class LlmOptions:
    """How a model is run: options of every verb that decodes with one (see `with_options`)."""

    engine: EngineOptions = field(default_factory=EngineOptions)
    ngram: str = option(
        f"{NgramOptions.min_n}:{NgramOptions.max_n}",
        "Tokens that `ngram` matches.",
        metavar="MIN:MAX",
    )
    ngram_history: int = option(
        NgramOptions.history, "Tokens of earlier outputs that `ngram` searches too."
    )
    draft_vocab: int | None = option(
        None, "Levels draft from this many tokens only, the most frequent.", default_text="all"
    )
    draft_vocab_from: str | None = option(
        None,
        "Text to count them in, or a .json list of ids.",
        default_text="lower ids first",
        metavar="FILE",
    )
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)

    def open(self, ckpt: str, cascade: str | Cascade | None) -> LLM:
        """The model, converted on first use."""
        from halfbyte.api.llm import LLM

        with conversion_progress() as progress:
            return LLM(
                ckpt,
                cascade,
                engine=self.engine,
                runtime=self.runtime,
                ngram=self._ngram(),
                draft_vocab=self._draft_vocabulary(),
                progress=progress,
            )

    def _ngram(self) -> NgramOptions:
        least, _, most = self.ngram.partition(":")
        if not (least.isdecimal() and most.isdecimal() and len(self.ngram) < 20):
            raise ArgumentError(
                "--ngram",
                got=repr(self.ngram),
                expected="MIN:MAX",
                fix=f"for example {LlmOptions.ngram}",
            )
        return NgramOptions(int(least), int(most), self.ngram_history)

    def _draft_vocabulary(self) -> DraftVocabulary | None:
        """The tokens that levels draft from; None: all."""
        from halfbyte.text.draft_vocabulary import DraftVocabulary

        size, source = self.draft_vocab, self.draft_vocab_from
        if size is None and source is not None:
            raise ArgumentError(
                "--draft-vocab-from",
                got=source,
                expected="--draft-vocab beside it",
                fix="say how many tokens, for example --draft-vocab 8192",
            )
        return None if size is None else DraftVocabulary(size, source)


Command = Callable[..., None]


def with_options(*, without: Collection[str] = (), **defaults: Any) -> Callable[[Command], Command]:
    """The command as typer is to see it: in the place of a parameter whose type is a class of
    options, the fields that are shown, less those named in `without`.

    `defaults`: of fields, by name, where they are not the class's own.
    """

    def made(command: Command) -> Command:
        given = list(inspect.signature(command, eval_str=True).parameters.values())
        groups = {p.name: p.annotation for p in given if is_dataclass(p.annotation)}
        seen: list[inspect.Parameter] = []
        for parameter in given:
            if parameter.name in groups:
                seen += _parameters(groups[parameter.name], without, defaults)
            else:
                seen.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

        @functools.wraps(command)
        def run(**values: Any) -> None:
            built = {name: _built(cls, values) for name, cls in groups.items()}
            command(**values, **built)

        run.__signature__ = inspect.Signature(seen)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in seen}
        del run.__wrapped__
        return run

    return made


def _parameters(
    cls: Any, without: Collection[str], defaults: dict[str, Any]
) -> Iterator[inspect.Parameter]:
    """One for each field that is shown, of nested classes too."""
    hints = typing.get_type_hints(cls)
    for each in fields(cls):
        if is_dataclass(hints[each.name]):
            yield from _parameters(hints[each.name], without, defaults)
        elif each.metadata.get("shown") is not None and each.name not in without:
            kind, default = _as_shown(hints[each.name]), defaults.get(each.name, each.default)
            how = _as_option(each.metadata["shown"])
            yield inspect.Parameter(
                each.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None if default == () else default,
                annotation=Annotated[kind, how],
            )


def _as_shown(kind: Any) -> Any:
    """A field's type as typer takes it: a tuple of texts is an option given several times."""
    if _is_several(kind):
        return Optional[list[str]]  # noqa: UP045
    if isinstance(kind, types.UnionType):
        return Optional[typing.get_args(kind)[0]]  # noqa: UP045
    return kind


def _is_several(kind: Any) -> bool:
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    return typing.get_origin(kinds[0]) is tuple


def _built(cls: Any, values: dict[str, Any]) -> Any:
    """Options of a class, their values taken out of those of the command."""
    hints, own = typing.get_type_hints(cls), {}
    for each in fields(cls):
        if is_dataclass(hints[each.name]):
            own[each.name] = _built(hints[each.name], values)
        elif each.name in values:
            value = values.pop(each.name)
            several = _is_several(hints[each.name])
            own[each.name] = tuple(value or ()) if several else value
    return cls(**own)
