"""`LLM`: a model and a cascade behind generate, chat and stream."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from collections.abc import Sequence as Seq
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfbyte.api.loading import LoadedModel, Progress, default_cascade, load
from halfbyte.api.request import Request, best_answers, check_tokens, require_one
from halfbyte.api.results import Chunk, Completion
from halfbyte.cascade.cascade import Cascade
from halfbyte.cascade.planning import Planner
from halfbyte.cascade.stages import Auto
from halfbyte.engine.engine import Engine
from halfbyte.engine.options import EngineOptions
from halfbyte.errors import ArgumentError
from halfbyte.options import refuse_unknown, with_values
from halfbyte.proposers.build import Proposers
from halfbyte.proposers.options import NgramOptions
from halfbyte.runtime.options import RuntimeOptions
from halfbyte.sampling.params import SamplingParams
from halfbyte.text.chat import Message
from halfbyte.text.draft_vocabulary import DraftVocabulary

DEFAULT_CASCADE = "auto"
Prompt = str | Seq[int]


class LLM:
    """A model under one cascade. The output is the target level's, whatever drafts for it.

    `model`: a checkpoint directory, a GGUF file, a Hugging Face directory or hub id, or
    `smollm2-135m`; anything but a checkpoint is converted once into a cache. `cascade` `auto` (or
    None) lets a planner choose what proposes, and how much, from measured costs (docs/planner.md);
    its target is the best level the weights have, or L of `auto > L`.

    Threads take turns: `generate` and `chat` have the model for the whole call, `stream` for each
    cycle.
    """

    def __init__(
        self,
        model: str | Path | LoadedModel,
        cascade: str | Cascade | None = DEFAULT_CASCADE,
        threads: int | None = None,
        *,
        engine: EngineOptions | None = None,
        runtime: RuntimeOptions | None = None,
        ngram: NgramOptions | None = None,
        draft_vocab: DraftVocabulary | None = None,
        planes: int | None = None,
        group: int | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> None:
        """`options`: fields of `EngineOptions` and `RuntimeOptions` by name, in place of those of
        `engine` and `runtime`. `planes` and `group`: of a conversion. What a model is built with
        cannot be given with one that is loaded already."""
        refuse_unknown("option of LLM", options, EngineOptions, RuntimeOptions)
        if threads is not None:
            options["threads"] = threads
        settings = with_values(engine or EngineOptions(), options)
        chosen = Cascade.parse(cascade) if isinstance(cascade, str) else cascade
        if isinstance(model, LoadedModel):
            _refuse_rebuilding(options, runtime, planes, group)
        else:
            built = with_values(runtime or RuntimeOptions(), options)
            model = load(model, chosen, built, planes=planes, group=group, progress=progress)
        self.model = model
        self.draft_vocab = draft_vocab
        self._use(chosen, settings, ngram or NgramOptions())

    def with_cascade(
        self,
        cascade: str | Cascade,
        *,
        engine: EngineOptions | None = None,
        ngram: NgramOptions | None = None,
        draft_vocab: DraftVocabulary | None = None,
        **options: Any,
    ) -> LLM:
        """The same weights and KV pool under another cascade; what is not given stays.

        `options`: fields of `EngineOptions` by name; None stays too.
        """
        refuse_unknown("option of with_cascade", options, EngineOptions)
        given = {name: value for name, value in options.items() if value is not None}
        other = copy(self)
        other.draft_vocab = draft_vocab or self.draft_vocab
        other._use(
            cascade,
            with_values(engine or self.options, given),
            ngram or self.ngram,
        )
        return other

    def prepare(self, cascade: Cascade) -> None:
        """Refuse a cascade that cannot run here; open the models it names, measure for `auto`."""
        cascade.require(self.model.runtime)
        with self.model.turn:
            self.planner(cascade)

    def planner(self, cascade: Cascade) -> Planner:
        """What decides for the sequences of a cascade; that of `auto` keeps what it learns."""
        if not cascade.is_auto:
            options = self.options
            return self.proposers.fixed_plan(cascade, options.draft_length, options.inner_length)
        if cascade not in self._planners:
            from halfbyte.api.candidates import planner_of  # an explicit cascade loads no planner

            self._planners[cascade] = planner_of(self.model, self.proposers, cascade)
        return self._planners[cascade]

    def resolve(self, cascade: str | Cascade | None) -> Cascade:
        """The cascade that a text names; `auto` alone (or None) gets the weights' best target."""
        parsed = Cascade.parse(cascade) if isinstance(cascade, str) else cascade
        if parsed is None:
            parsed = Cascade((Auto(),))
        if isinstance(parsed.stages[-1], Auto):
            best = default_cascade(self.model.runtime).target
            parsed = Cascade((parsed.stages[-1], best))
        return parsed

    def _use(
        self, cascade: str | Cascade | None, options: EngineOptions, ngram: NgramOptions
    ) -> None:
        """Take a cascade for this model; what it needs besides is opened now, not at a token."""
        self.cascade = self.resolve(cascade)
        self.options = options
        self.ngram = ngram
        self._planners: dict[Cascade, Planner] = {}
        self.proposers = Proposers(
            self.model.runtime,
            options.min_confidence,
            ngram=ngram,
            draft_ids=self._draft_ids(),
            open_model=partial(self.model.open_runner, prefix_cache=options.prefix_cache),
            open_head=self.model.open_head,
        )
        self.prepare(self.cascade)

    def _draft_ids(self) -> NDArray[np.int32] | None:
        if self.draft_vocab is None:
            return None
        model = self.model
        codec = model.codec if model.has_text else None
        return self.draft_vocab.ids(codec, model.runtime.config.vocab_size, model.eos_ids)

    def generate(
        self,
        prompts: str | Seq[str] | Seq[int] | Seq[Seq[int]],
        params: SamplingParams | Seq[SamplingParams] | None = None,
    ) -> list[Completion]:
        """Complete one prompt or a batch; a prompt is text or token ids."""
        requests = [self._encode(prompt) for prompt in _as_prompts(prompts)]
        return self._complete(requests, params)

    def chat(
        self,
        messages: Seq[Message] | Seq[Seq[Message]],
        params: SamplingParams | Seq[SamplingParams] | None = None,
    ) -> list[Completion]:
        """Answer one conversation or a batch of them, written out by the model's template."""
        many = bool(messages) and isinstance(messages[0], list | tuple)
        conversations: Any = messages if many else [messages]
        return self._complete([self._encode_chat(c) for c in conversations], params)

    def stream(
        self, prompt: Prompt | Seq[Message], params: SamplingParams | None = None
    ) -> Generator[Chunk, None, None]:
        """Yield what each cycle adds to one request. Closing the iterator frees its pages."""
        if not isinstance(prompt, str) and prompt and isinstance(prompt[0], Mapping):
            ids = self._encode_chat(prompt)  # type: ignore[arg-type]
        else:
            ids = self._encode(prompt)  # type: ignore[arg-type]
        wanted = params or SamplingParams()
        require_one(wanted)
        return self._stream(Request(self.model, ids, wanted, follow=True))

    def _stream(self, request: Request) -> Generator[Chunk, None, None]:
        engine = self._engine([request])
        try:
            while engine.has_work:
                with self.model.turn:
                    engine.step()
                chunk = request.take_chunk()
                if chunk is not None:
                    yield chunk
        finally:
            with self.model.turn:
                engine.close()

    def _complete(
        self, prompts: list[list[int]], params: SamplingParams | Seq[SamplingParams] | None
    ) -> list[Completion]:
        each = _params_of(params, len(prompts))
        requests = [
            [Request(self.model, ids, p, index=i) for i in range(p.num_drawn)]
            for ids, p in zip(prompts, each, strict=True)
        ]
        engine = self._engine([request for group in requests for request in group])
        with self.model.turn:
            try:
                while engine.has_work:
                    engine.step()
            finally:
                engine.close()
        return [
            best_answers([request.completion() for request in group], p)
            for group, p in zip(requests, each, strict=True)
        ]

    def engine(self) -> Engine:
        """An engine with no work, over this model, cascade and options."""
        model = self.model
        return Engine(model.runtime, model.pool, self.cascade, self.options, self.planner)

    def _engine(self, requests: list[Request]) -> Engine:
        engine = self.engine()
        for request in requests:
            engine.add(request.sequence)
        return engine

    def _encode(self, prompt: Prompt) -> list[int]:
        ids = self.model.codec.encode(prompt) if isinstance(prompt, str) else list(prompt)
        check_tokens(ids, self.model.runtime.config.vocab_size)
        return ids

    def _encode_chat(self, messages: Seq[Message]) -> list[int]:
        dialect = self.model.dialect
        return self._encode(dialect.ids(dialect.write(messages)))


def _refuse_rebuilding(
    options: dict[str, Any], runtime: RuntimeOptions | None, planes: int | None, group: int | None
) -> None:
    given = [*options, *(["runtime"] if runtime else [])]
    given += [name for name, value in (("planes", planes), ("group", group)) if value is not None]
    if given:
        raise ArgumentError(
            "LLM over a model that is loaded already",
            got=", ".join(given),
            expected="options of the engine only",
            fix="give them where the model is loaded",
        )


def _as_prompts(prompts: Any) -> list[Prompt]:
    if isinstance(prompts, str):
        return [prompts]
    if not isinstance(prompts, list | tuple):
        raise ArgumentError(
            "prompts",
            got=type(prompts).__name__,
            expected="a string, a list of strings or lists of token ids",
            fix="put the prompts in a list",
        )
    if prompts and isinstance(prompts[0], int):
        return [list(prompts)]
    for prompt in prompts:
        if not isinstance(prompt, str | list | tuple):
            raise ArgumentError(
                "prompt",
                got=type(prompt).__name__,
                expected="a string or a list of token ids",
                fix="check the list of prompts",
            )
    return list(prompts)


def _params_of(
    params: SamplingParams | Seq[SamplingParams] | None, count: int
) -> list[SamplingParams]:
    if params is None or isinstance(params, SamplingParams):
        return [params or SamplingParams()] * count
    if len(params) != count:
        raise ArgumentError(
            "params",
            got=f"{len(params)} for {count} prompts",
            expected="one, or one per prompt",
            fix="give a single SamplingParams for all",
        )
    return list(params)
