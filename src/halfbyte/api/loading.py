"""A model ready to run: weights in a runtime, its pages, its text side."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from halfbyte.api.turn import Turn
from halfbyte.cascade.cascade import Cascade
from halfbyte.cascade.stages import Eagle, Model
from halfbyte.config import ModelConfig
from halfbyte.engine.pages import PagePool
from halfbyte.engine.prefix import DraftTable
from halfbyte.errors import ArgumentError
from halfbyte.formats.checkpoint import Checkpoint
from halfbyte.formats.draft_head import HeadCheckpoint
from halfbyte.formats.weights import Weights
from halfbyte.importers.cache import expanded
from halfbyte.importers.resolve import open_weights
from halfbyte.proposers.model_runner import ModelRunner
from halfbyte.runtime.draft_head import DraftHead
from halfbyte.runtime.options import RuntimeOptions
from halfbyte.runtime.protocol import Runtime
from halfbyte.text.chat import ChatTemplate
from halfbyte.text.codec import TextCodec, TextSource, eos_ids
from halfbyte.text.dialect import Dialect

if TYPE_CHECKING:
    from halfbyte.sampling.grammar import GrammarCompiler

Progress = Callable[[str, int, int], None]


@dataclass(slots=True)
class LoadedModel:
    """Shared by every `LLM` over the same weights, whatever their cascades."""

    name: str
    runtime: Runtime
    source: TextSource
    options: RuntimeOptions = field(default_factory=RuntimeOptions)
    weights: Weights | None = None  # what a draft head shares of the model
    pool: PagePool = field(init=False)
    eos_ids: frozenset[int] = field(init=False)
    _has_text: bool | None = field(default=None, init=False)
    _codec: TextCodec | None = field(default=None, init=False)
    _template: ChatTemplate | None = field(default=None, init=False)
    _dialect: Dialect | None = field(default=None, init=False)
    _grammars: GrammarCompiler | None = field(default=None, init=False)
    _opened: dict[tuple[str, str], tuple[LoadedModel, int]] = field(
        default_factory=dict, init=False
    )
    _heads: dict[str, DraftHead] = field(default_factory=dict, init=False)
    _turn: Turn = field(default_factory=Turn, init=False)

    def __post_init__(self) -> None:
        config = self.runtime.config
        self.pool = PagePool(self.runtime.num_pages, self.runtime.page_size)
        self.eos_ids = eos_ids(self.source, config.eos_ids, config.vocab_size)

    @property
    def turn(self) -> AbstractContextManager[bool]:
        """Held while the model changes: `with model.turn`. Raises StoppedError, see there."""
        return self._turn.lock()

    @property
    def context(self) -> int:
        """Most tokens of a sequence, prompt and output."""
        return min(self.runtime.config.max_context, self.pool.num_pages * self.pool.page_size)

    @property
    def has_text(self) -> bool:
        """Whether the model comes with a tokenizer."""
        if self._has_text is None:  # asked for every request, and it reads a file
            self._has_text = self.source.tokenizer_json is not None
        return self._has_text

    @property
    def codec(self) -> TextCodec:
        """The tokenizer, built on first use."""
        if self._codec is None:
            self._codec = TextCodec(self.source, self.runtime.config.vocab_size)
        return self._codec

    @property
    def grammars(self) -> GrammarCompiler:
        """What structured output is made by, built on first use."""
        if self._grammars is None:
            from halfbyte.sampling.grammar import GrammarCompiler

            self._grammars = GrammarCompiler(
                self.codec, self.runtime.config.vocab_size, self.eos_ids
            )
        return self._grammars

    @property
    def template(self) -> ChatTemplate:
        """The chat template, built on first use."""
        if self._template is None:
            self._template = ChatTemplate(
                self.source.chat_template,
                bos_token=self.codec.bos_token,
                eos_token=self.codec.eos_token,
                special_tokens=self.source.tokenizer_info.get("special_tokens"),
                named=self.source.named_templates,
            )
        return self._template

    @property
    def dialect(self) -> Dialect:
        """How conversations are written and answers read, built on first use."""
        if self._dialect is None:
            self._dialect = Dialect(self.template, self.codec)
        return self._dialect

    def open_runner(self, stage: Model, *, prefix_cache: bool = True) -> ModelRunner:
        """A `model:` stage that proposes to this model; its weights are loaded on first use.

        With `prefix_cache` what it has read of a text is kept for those that begin alike.
        """
        opened, vocab_size = self.opened(stage)
        Cascade((stage.level,)).require(opened.runtime)
        return ModelRunner(
            str(stage),
            opened.runtime,
            stage.level,
            new_pages=lambda: DraftTable(
                opened.pool, opened.context, stage.level, reuse=prefix_cache
            ),
            vocab_size=vocab_size,
        )

    def opened(self, stage: Model) -> tuple[LoadedModel, int]:
        """A stage's model and how many ids it shares with this one."""
        kind = "dense" if stage.level.weight_bits == 32 else "planes"
        if (stage.path, kind) not in self._opened:
            loaded = load(stage.path, Cascade((stage.level,)), self.options)
            self._opened[stage.path, kind] = loaded, shared_vocabulary(self, loaded)
        return self._opened[stage.path, kind]

    def open_head(self, stage: Eagle, judge: Model | None = None) -> DraftHead:
        """An `eagle:` stage's head beside the model that judges it, loaded on first use.

        `judge` is the model of the next stage; None: this one.
        """
        if judge is not None:
            opened, _ = self.opened(judge)
            return opened.open_head(stage)
        if stage.path not in self._heads:
            head = HeadCheckpoint.open(expanded(stage.path))
            self._heads[stage.path] = _build_head(head, self)
            self.pool.forget()  # pages cached so far have no features
        return self._heads[stage.path]


def shared_vocabulary(target: LoadedModel, draft: LoadedModel) -> int:
    """Ids below this are the same token to both models; past it is padding of one of them."""
    for model in (target, draft):
        if not model.has_text:
            raise ArgumentError(
                f"vocabulary of {model.name}",
                got="no tokenizer",
                expected="one, to see that ids mean the same to both models",
                fix="convert the model from files with a tokenizer",
            )
    ours, theirs = target.codec.vocabulary(), draft.codec.vocabulary()
    shared = min(max(ours, default=-1), max(theirs, default=-1)) + 1
    for i in range(shared):
        if ours.get(i) != theirs.get(i):
            raise ArgumentError(
                f"model {draft.name}",
                got=f"token {i} as {theirs.get(i)!r}",
                expected=f"{ours.get(i)!r}, as in {target.name}",
                fix="a model stage needs the target's vocabulary: name one of the same family",
            )
    return min(shared, target.runtime.config.vocab_size, draft.runtime.config.vocab_size)


def load(
    model: str | Path,
    cascade: Cascade | None,
    options: RuntimeOptions,
    *,
    planes: int | None = None,
    group: int | None = None,
    progress: Progress | None = None,
) -> LoadedModel:
    """Open (converting on first use) and load a model; the cascade says which weights it needs."""
    levels = cascade.levels if cascade is not None else ()
    dense = any(level.weight_bits == 32 for level in levels)
    if dense and any(level.weight_bits != 32 for level in levels):
        raise ArgumentError(
            f"cascade '{cascade}'",
            got="dense and quantized stages together",
            expected="stages of one kind, which share one copy of the weights",
            fix="use f32 alone, or levels such as w4a8 > w8a16",
        )
    weights = open_weights(model, dense=dense, planes=planes, group=group, progress=progress)
    _check_memory(weights.config, options)
    runtime = _build(weights, options)
    if isinstance(weights, Checkpoint) and options.backend == "native":
        weights.unload()
    return LoadedModel(str(model), runtime, weights, options, weights)


def default_cascade(runtime: Runtime) -> Cascade:
    """`auto` for the best target the weights have."""
    for text in ("auto > w8a16", "auto > w4a16", "auto > f32"):
        cascade = Cascade.parse(text)
        if runtime.supports(cascade.target):
            return cascade
    raise ArgumentError(
        "model", got="weights no level can run", expected="planes or dense", fix="convert it again"
    )


def _check_memory(config: ModelConfig, options: RuntimeOptions) -> None:
    width = 4 if options.kv_dtype == "f32" else 2
    per_token = config.kv_values * width
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    wanted = per_token * options.num_tokens
    if wanted > available:
        raise ArgumentError(
            "num_tokens",
            got=f"{options.num_tokens} ({wanted / 2**30:.1f} GiB of KV)",
            expected=f"at most {available // per_token} on this machine",
            fix="ask for a smaller KV pool",
        )


def _build(weights: Weights, options: RuntimeOptions) -> Runtime:
    sizes = {
        "num_tokens": options.num_tokens,
        "page_size": options.page_size,
        "max_rows": options.max_rows,
    }
    if options.backend == "reference":
        from halfbyte.runtime.reference import ReferenceRuntime

        return ReferenceRuntime(weights, kv_dtype=options.kv_dtype, **sizes)
    try:
        from halfbyte.runtime.native import NativeRuntime
    except ImportError as error:
        raise ArgumentError(
            "native runtime",
            got=str(error),
            expected="the compiled module",
            fix="install halfbyte again with a C++ compiler at hand, or use backend='reference'",
        ) from error
    return NativeRuntime(
        weights, threads=options.threads, tier=options.tier, kv_dtype=options.kv_dtype, **sizes
    )


def _build_head(head: HeadCheckpoint, model: LoadedModel) -> DraftHead:
    runtime, weights = model.runtime, model.weights
    if weights is None:
        raise ArgumentError(
            f"draft head {head.path.name}",
            got="a target without its weights at hand",
            expected="a target that was loaded from files",
            fix="load the model by its path",
        )
    if model.options.backend == "reference":
        from halfbyte.runtime.reference import ReferenceRuntime
        from halfbyte.runtime.reference_head import ReferenceHead

        assert isinstance(runtime, ReferenceRuntime)
        return ReferenceHead(head, runtime, weights, max_rows=runtime.max_rows)
    from halfbyte.runtime.native import NativeRuntime
    from halfbyte.runtime.native_head import NativeHead

    assert isinstance(runtime, NativeRuntime)
    return NativeHead(head, runtime, weights, max_rows=runtime.max_rows)
