"""`LLM`: a model and a cascade behind generate, chat and stream."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from collections.abc import Sequence as Seq
from dataclasses import replace
from pathlib import Path
from typing import Any

from halfbyte.cascade.cascade import Cascade
from halfbyte.chat import Message
from halfbyte.engine.pages import PageTable
from halfbyte.engine.run import Engine, EngineOptions
from halfbyte.engine.sequence import Sequence
from halfbyte.errors import ArgumentError
from halfbyte.loading import LoadedModel, Progress, RuntimeOptions, default_cascade, load
from halfbyte.params import SamplingParams
from halfbyte.results import Chunk, Completion
from halfbyte.text import Detokenizer, StopStrings, TextCodec

DEFAULT_CASCADE = "w4a8 > w8a16"
Prompt = str | Seq[int]


class LLM:
    """A model under one cascade. The output is the target level's, whatever drafts for it.

    `model`: a checkpoint directory, a GGUF file, a Hugging Face directory or hub id, or
    `smollm2-135m`; anything but a checkpoint is converted once into a cache. `cascade` None picks
    the nested pair where the weights have both planes, else plain decoding.

    One caller at a time: not thread-safe.
    """

    def __init__(
        self,
        model: str | Path | LoadedModel,
        cascade: str | Cascade | None = DEFAULT_CASCADE,
        threads: int | None = None,
        *,
        draft_length: int = EngineOptions.draft_length,
        min_confidence: float = EngineOptions.min_confidence,
        max_batch: int = EngineOptions.max_batch,
        num_tokens: int = RuntimeOptions.num_tokens,
        page_size: int = RuntimeOptions.page_size,
        kv_dtype: str = RuntimeOptions.kv_dtype,
        max_rows: int = RuntimeOptions.max_rows,
        tier: str | None = None,
        backend: str = RuntimeOptions.backend,
        planes: int | None = None,
        group: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.options = EngineOptions(draft_length, min_confidence, max_batch)
        chosen = Cascade.parse(cascade) if isinstance(cascade, str) else cascade
        if not isinstance(model, LoadedModel):
            options = RuntimeOptions(
                backend, threads, tier, num_tokens, page_size, kv_dtype, max_rows
            )
            model = load(model, chosen, options, planes=planes, group=group, progress=progress)
        self.model = model
        self.cascade = chosen or default_cascade(model.runtime)
        self.cascade.require(model.runtime)

    def with_cascade(
        self,
        cascade: str | Cascade,
        *,
        draft_length: int | None = None,
        min_confidence: float | None = None,
    ) -> LLM:
        """The same weights and KV pool under another cascade; what is not given stays."""
        options = self.options
        if draft_length is not None:
            options = replace(options, draft_length=draft_length)
        if min_confidence is not None:
            options = replace(options, min_confidence=min_confidence)
        return LLM(
            self.model,
            cascade,
            draft_length=options.draft_length,
            min_confidence=options.min_confidence,
            max_batch=options.max_batch,
        )

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
        return self._stream(_Request(self, ids, params or SamplingParams(), follow=True))

    def _stream(self, request: _Request) -> Generator[Chunk, None, None]:
        engine = self._engine([request])
        sequence, told = request.sequence, 0
        try:
            while engine.has_work:
                engine.step()
                emitted = sequence.emitted
                if len(emitted) == told:
                    continue
                completion = request.completion() if sequence.finish_reason else None
                yield Chunk(
                    token_ids=emitted[told:],
                    pieces=request.take_pieces(len(emitted) - told),
                    logprobs=sequence.logprobs[told:],
                    fates=sequence.fates[told:],
                    completion=completion,
                )
                told = len(emitted)
        finally:
            engine.close()

    def _complete(
        self, prompts: list[list[int]], params: SamplingParams | Seq[SamplingParams] | None
    ) -> list[Completion]:
        each = _params_of(params, len(prompts))
        requests = [_Request(self, ids, p) for ids, p in zip(prompts, each, strict=True)]
        engine = self._engine(requests)
        try:
            while engine.has_work:
                engine.step()
        finally:
            engine.close()
        return [request.completion() for request in requests]

    def _engine(self, requests: list[_Request]) -> Engine:
        engine = Engine(self.model.runtime, self.model.pool, self.cascade, self.options)
        for request in requests:
            engine.add(request.sequence)
        return engine

    def _encode(self, prompt: Prompt) -> list[int]:
        ids = self.model.codec.encode(prompt) if isinstance(prompt, str) else list(prompt)
        vocab = self.model.runtime.config.vocab_size
        bad = [t for t in ids if not isinstance(t, int) or not 0 <= t < vocab]
        if bad or not ids:
            raise ArgumentError(
                "prompt",
                got=f"token {bad[0]!r}" if bad else "no tokens",
                expected=f"text, or token ids from 0 to {vocab - 1}",
                fix="give a prompt of at least one token",
            )
        return ids

    def _encode_chat(self, messages: Seq[Message]) -> list[int]:
        text = self.model.template.render(messages)
        return self._encode(self.model.codec.encode(text, as_chat=True))


class _Request:
    """A sequence and its text."""

    def __init__(
        self, llm: LLM, prompt: list[int], params: SamplingParams, *, follow: bool = False
    ) -> None:
        """`follow`: text is wanted token by token."""
        model = llm.model
        room = model.context - len(prompt)
        if room < 1:
            raise ArgumentError(
                "prompt",
                got=f"{len(prompt)} tokens",
                expected=f"fewer than the {model.context} of the context",
                fix="shorten it, or raise num_tokens where the model's own context is longer",
            )
        codec = model.codec if params.stop or model.has_text else None
        self._codec = codec
        self._text = _Text(codec, params.stop) if codec and (params.stop or follow) else None
        self._choice = params.choice()
        eos = frozenset() if params.ignore_eos else model.eos_ids
        self.sequence = Sequence(
            prompt,
            table=PageTable(model.pool, model.context),
            choice=self._choice,
            limit=min(params.max_tokens, room),
            stop_ids=eos | frozenset(params.stop_token_ids),
            watch=self._text.add if self._text else None,
        )

    def completion(self) -> Completion:
        """The finished request."""
        sequence = self.sequence
        assert sequence.finish_reason is not None
        if self._text is not None:
            text = self._text.finish()
        else:
            ended = sequence.tokens[-1] in sequence.stop_ids
            shown = sequence.emitted[:-1] if ended else sequence.emitted
            text = self._codec.decode(shown) if self._codec else ""
        return Completion(
            prompt_token_ids=sequence.tokens[: sequence.prompt_len],
            token_ids=sequence.emitted,
            text=text,
            logprobs=sequence.logprobs,
            fates=sequence.fates,
            finish_reason=sequence.finish_reason,
            seed=self._choice.seed,
            statistics=sequence.statistics,
        )

    def take_pieces(self, count: int) -> list[str]:
        """Text of the last `count` tokens, one entry each."""
        return self._text.take(count) if self._text else [""] * count


class _Text:
    """Text of a sequence as it grows, ended by stop strings."""

    def __init__(self, codec: TextCodec, stops: Seq[str]) -> None:
        self._detokenizer = Detokenizer(codec)
        self._stops = StopStrings(stops)
        self._pieces: list[str] = []
        self._taken = 0

    def add(self, token: int) -> bool:
        """Follow one token; True: a stop string is complete."""
        self._pieces.append(self._stops.add(self._detokenizer.add(token)))
        return self._stops.found

    def finish(self) -> str:
        """The whole text, with what was held back."""
        if not self._stops.found:
            tail = self._stops.add(self._detokenizer.flush())
            self._pieces.append(tail + ("" if self._stops.found else self._stops.flush()))
        return "".join(self._pieces)

    def take(self, count: int) -> list[str]:
        """Pieces not taken yet as `count` entries; a stop token has none, a tail joins the last."""
        pieces = self._pieces[self._taken :]
        self._taken = len(self._pieces)
        shown = pieces[:count] + [""] * (count - len(pieces))
        shown[-1] += "".join(pieces[count:])
        return shown


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
            expected="one, or one a prompt",
            fix="give a single SamplingParams for all",
        )
    return list(params)
