"""One request: its sequence, its text, what its chunks have carried so far."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import replace

from halfbyte.api.loading import LoadedModel
from halfbyte.api.results import Chunk, Completion
from halfbyte.cascade.cascade import Cascade
from halfbyte.cascade.scores import Tops
from halfbyte.engine.pages import PageTable
from halfbyte.engine.sequence import Sequence
from halfbyte.errors import ArgumentError, ContextError
from halfbyte.sampling.params import SamplingParams
from halfbyte.sampling.shaper import Grammar, Penalties, Rules, SequenceShaper
from halfbyte.sampling.thinking import ThinkingGrammar
from halfbyte.text.codec import Detokenizer, TextCodec
from halfbyte.text.stop_strings import StopStrings


class Request:
    """Prompt and parameters become a `Sequence`; what it emits becomes chunks and a completion."""

    def __init__(
        self,
        model: LoadedModel,
        prompt: Seq[int],
        params: SamplingParams,
        *,
        follow: bool = False,
        cascade: Cascade | None = None,
        priority: int = 0,
        deadline: float | None = None,
        index: int = 0,
    ) -> None:
        """`follow`: text is wanted token by token. `index`: which of the answers this is. The rest:
        see `engine.sequence.Sequence`."""
        vocab = model.runtime.config.vocab_size
        room = model.context - len(prompt)
        if room < 1:
            raise too_long(f"{len(prompt)} tokens", model.context)
        check_tokens(prompt, vocab)
        codec = model.codec if params.stop or model.has_text else None
        self._codec = codec
        follows = codec is not None and (params.stop or params.shown_token_ids or follow)
        self._text = _Text(codec, prompt, params) if codec and follows else None
        self._params = params
        self._carried = 0  # emitted tokens that chunks have carried
        eos = frozenset() if params.ignore_eos else model.eos_ids
        stop_ids = eos | frozenset(params.stop_token_ids)
        rules = _rules(model, params, stop_ids)
        shaper = SequenceShaper(rules, prompt, vocab) if rules.any else None
        self._sampler = replace(params.sampler(index), shaper=shaper)
        self.sequence = Sequence(
            list(prompt),
            table=PageTable(model.pool, model.context),
            sampler=self._sampler,
            limit=min(params.max_tokens, room),
            stop_ids=stop_ids,
            watch=self._text.add if self._text else None,
            cascade=cascade,
            priority=priority,
            deadline=deadline,
            shaper=shaper,
        )

    def take_chunk(self) -> Chunk | None:
        """What is new since the last call; None: nothing. The last one carries the completion."""
        sequence, carried = self.sequence, self._carried
        emitted = sequence.emitted_since(carried)
        if not emitted and sequence.finish_reason is None:
            return None
        self._carried += len(emitted)
        # The completion lets go of the text held back, so it comes first.
        completion = self.completion() if sequence.finish_reason is not None else None
        pieces, tail = self._text.take(len(emitted)) if self._text else ([""] * len(emitted), "")
        return Chunk(
            token_ids=emitted,
            pieces=pieces,
            logprobs=sequence.output.logprobs[carried:],
            fates=sequence.output.fates[carried:],
            completion=completion,
            top_logprobs=self._tops_since(carried),
            tail=tail,
        )

    def completion(self) -> Completion:
        """The finished request."""
        sequence, wanted = self.sequence, self._params.prompt_logprobs
        assert sequence.finish_reason is not None
        if self._text is not None:
            text = self._text.finish()
        else:
            ended = sequence.tokens[-1] in sequence.stop_ids and sequence.emitted_len > 0
            shown = sequence.emitted[:-1] if ended else sequence.emitted
            before = sequence.tokens[: sequence.prompt_len]
            within = self._params.structured_outputs is not None
            text = self._codec.decode(shown, after=before, within=within) if self._codec else ""
        return Completion(
            prompt_token_ids=sequence.tokens[: sequence.prompt_len],
            token_ids=sequence.emitted,
            text=text,
            logprobs=sequence.output.logprobs,
            fates=sequence.output.fates,
            finish_reason=sequence.finish_reason,
            seed=self._sampler.row.seed,
            statistics=sequence.statistics,
            top_logprobs=self._tops_since(0),
            prompt_logprobs=None if wanted is None else [None, *sequence.output.scores],
            prompt_top_logprobs=[None, *(t[:wanted] for t in sequence.output.score_tops)]
            if wanted
            else None,
        )

    def _tops_since(self, count: int) -> list[Tops] | None:
        """The most likely tokens beside each emitted one but the first `count`."""
        wanted = self._params.logprobs
        if wanted is None:
            return None
        output = self.sequence.output
        if wanted == 0:
            return [[] for _ in output.logprobs[count:]]
        return [tops[:wanted] for tops in output.tops[count:]]


class _Text:
    """Text of a sequence as it grows behind its prompt, ended by stop strings."""

    def __init__(self, codec: TextCodec, prompt: Seq[int], params: SamplingParams) -> None:
        self._codec = codec
        within = params.structured_outputs is not None
        self._detokenizer = Detokenizer(codec, prompt, within=within)
        self._stops = StopStrings(params.stop, codec.control_names if params.stop else None)
        self._shown = frozenset(params.shown_token_ids)
        self._pieces: list[str] = []
        self._taken = 0

    def add(self, token: int) -> bool:
        """Follow one token; True: a stop string is complete."""
        if token in self._shown:
            piece = self._stops.add(self._codec.control_names.get(token, ""))
        elif self._codec.is_control(token):
            piece = self._stops.add_control(token)
        else:
            piece = self._stops.add(self._detokenizer.add(token))
        self._pieces.append(piece)
        return self._stops.found

    def finish(self) -> str:
        """The whole text, with what was held back."""
        if not self._stops.found:
            tail = self._stops.add(self._detokenizer.flush())
            self._pieces.append(tail + ("" if self._stops.found else self._stops.flush()))
        return "".join(self._pieces)

    def take(self, count: int) -> tuple[list[str], str]:
        """Pieces not taken yet as `count` entries, what is over in the last; with none, apart.

        A stop token has no text, and what was held back has no token.
        """
        pieces = self._pieces[self._taken :]
        self._taken = len(self._pieces)
        if count == 0:
            return [], "".join(pieces)
        shown = pieces[:count] + [""] * (count - len(pieces))
        shown[-1] += "".join(pieces[count:])
        return shown, ""


def _rules(model: LoadedModel, params: SamplingParams, stop_ids: frozenset[int]) -> Rules:
    """What changes the logits of a request; its token ids are checked against the vocabulary."""
    vocab = model.runtime.config.vocab_size
    named = [*dict(params.logit_bias), *(params.allowed_token_ids or ()), *params.stop_token_ids]
    if named and max(named) >= vocab:
        raise ArgumentError(
            "token ids of logit_bias, allowed_token_ids or stop_token_ids",
            got=max(named),
            expected=f"ids from 0 to {vocab - 1}",
            fix="use this model's tokenizer",
        )
    allowed = params.allowed_token_ids
    return Rules(
        penalties=Penalties(
            params.presence_penalty, params.frequency_penalty, params.repetition_penalty
        ),
        bias=dict(params.logit_bias),
        min_tokens=params.min_tokens,
        stop_ids=stop_ids,
        allowed=None if allowed is None else frozenset(allowed),
        grammar=_grammar(model, params),
    )


def _grammar(model: LoadedModel, params: SamplingParams) -> Grammar | None:
    """What the text must be, from where its reasoning ends."""
    wanted, thinking = params.structured_outputs, params.thinking
    answer = None if wanted is None else model.grammars.compile(wanted)
    if thinking is None or (answer is None and thinking.budget is None):
        return answer
    close_ids = model.codec.encode(thinking.close, as_chat=True)
    vocab = model.runtime.config.vocab_size
    return ThinkingGrammar(thinking, answer, model.codec, close_ids, model.eos_ids, vocab)


def check_tokens(prompt: Seq[int], vocab_size: int) -> None:
    """Refuse a prompt that is empty or has a token the model does not."""
    if set(map(type, prompt)) == {int} and min(prompt) >= 0 and max(prompt) < vocab_size:
        return  # many tokens are looked at in no time: this may run on a server's event loop
    bad = [t for t in prompt if not isinstance(t, int) or not 0 <= t < vocab_size]
    if bad or not prompt:
        raise ArgumentError(
            "prompt",
            got=f"token {bad[0]!r}" if bad else "no tokens",
            expected=f"text, or token ids from 0 to {vocab_size - 1}",
            fix="give a prompt of at least one token",
        )


def too_long(got: str, context: int) -> ContextError:
    """The error for a prompt that leaves no room."""
    return ContextError(
        "prompt",
        got=got,
        expected=f"fewer than the {context} of the context",
        fix="shorten it, or raise num_tokens where the model's own context is longer",
    )


def best_answers(answers: list[Completion], params: SamplingParams) -> Completion:
    """The first of the `n` answers wanted, with the others; of `best_of`, the most likely."""
    if params.num_drawn > params.n:
        answers = sorted(answers, key=lambda answer: -answer.cumulative_logprob)[: params.n]
    first, *others = answers
    return replace(first, others=others) if others else first


def require_one(params: SamplingParams) -> None:
    """Refuse several answers where one is streamed."""
    if params.num_drawn != 1:
        raise ArgumentError(
            "n or best_of",
            got=params.num_drawn,
            expected="1: a stream has one answer",
            fix="submit it several times with seed, seed + 1, …",
        )
