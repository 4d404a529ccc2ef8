"""Halfbyte as a model of lm-evaluation-harness (extra [eval]): any of its tasks on a checkpoint.

    python -m halfbyte.evaluate.harness run --model halfbyte \
        --model_args pretrained=CKPT,cascade="w4a8 > w8a16" --tasks hellaswag

is that program's own command line with this model known to it. In Python, importing this module
registers the model, and `lm_eval.simple_evaluate(model=HalfbyteLM(…))` takes it directly.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from halfbyte.api.llm import LLM
from halfbyte.errors import ArgumentError, HalfbyteError
from halfbyte.evaluate.scorer import Scorer
from halfbyte.sampling.params import SamplingParams

DEFAULT_MAX_TOKENS = 256
_IGNORED = ("device", "max_batch_size", "trust_remote_code")  # the harness passes them to any model


@register_model("halfbyte")
class HalfbyteLM(TemplateLM):  # type: ignore[misc, unused-ignore]
    """Likelihoods at the cascade's target, generation under the cascade."""

    def __init__(
        self,
        pretrained: str | LLM,
        cascade: str = "w8a16",
        *,
        threads: int | None = None,
        draft_length: int = 3,
        batch_size: int | str = 8,
        num_tokens: int = 8192,
        max_gen_toks: int = DEFAULT_MAX_TOKENS,
        planes: int | None = None,
        progress: Callable[[int, int], None] = lambda *_: None,
        **others: Any,
    ) -> None:
        super().__init__()
        unknown = sorted(set(others) - set(_IGNORED))
        if unknown:
            raise ArgumentError(
                "model argument",
                got=repr(unknown[0]),
                expected="pretrained, cascade, threads, draft_length, batch_size, num_tokens,"
                " max_gen_toks or planes",
                fix="leave it out",
            )
        if not isinstance(pretrained, LLM):
            pretrained = LLM(
                pretrained,
                cascade,
                threads,
                draft_length=draft_length,
                max_batch=8 if isinstance(batch_size, str) else batch_size,
                num_tokens=num_tokens,
                planes=planes,
            )
        self.llm = pretrained
        self._progress = progress  # requests done, in all
        self.max_gen_toks = max_gen_toks

    @property
    def eot_token_id(self) -> int:
        """The first of the model's end tokens."""
        ends = self.llm.model.eos_ids
        return min(ends) if ends else 0

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without context: BOS where there is one."""
        bos = self.llm.model.codec.bos_id
        return self.eot_token_id if bos is None else bos

    @property
    def tokenizer_name(self) -> str:
        """For the harness's request cache."""
        return self.llm.model.name.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template's source, which the harness notes beside its results."""
        return (self.llm.model.source.chat_template or "") if chat_template else ""

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The conversation as the model's own template writes it."""
        if not add_generation_prompt:
            raise ArgumentError(
                "chat template",
                got="a conversation to continue inside an answer",
                expected="one that ends with the user",
                fix="leave the assistant's prefix out",
            )
        return self.llm.model.template.render(chat_history)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Ids; a text that already begins with BOS does not get a second one."""
        codec = self.llm.model.codec
        has_bos = bool(codec.bos_token) and string.startswith(codec.bos_token)
        return codec.encode(string, as_chat=has_bos or add_special_tokens is False)

    def loglikelihood(
        self, requests: list[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """As the harness has it, without its bar for tokenizing."""
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return found

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        """Requests with a common beginning run one after the other, so that it is read once."""
        answers: list[tuple[float, bool]] = [(0.0, True)] * len(requests)
        order = sorted(range(len(requests)), key=lambda i: requests[i][1] + requests[i][2])
        with Scorer(self.llm.model, self.llm.cascade.target) as scorer:
            for done, i in enumerate(order):
                self._progress(done, len(order))
                asked, context, continuation = requests[i]
                if continuation:
                    answers[i] = self._score(scorer, context, continuation)
                if asked is not None:
                    self.cache_hook.add_partial("loglikelihood", asked, answers[i])
        return answers

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Whole texts, in windows of the model's context, every token scored once."""
        length = self.llm.model.context - 1
        totals = []
        for request in requests:
            (text,) = request.args
            ids = self.tok_encode(text, add_special_tokens=False)
            windows = get_rolling_token_windows(
                token_list=ids, prefix_token=self.prefix_token_id, max_seq_len=length, context_len=1
            )
            pairs = [(None, *make_disjoint_window(window)) for window in windows]
            totals.append(math.fsum(score for score, _ in self._loglikelihood_tokens(pairs)))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), totals[-1])
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedy unless a request samples; a context too long loses its beginning.

        Two batches at a time, so that what is done is kept when a run is interrupted.
        """
        texts: list[str] = []
        size = 2 * self.llm.options.max_batch
        for at in range(0, len(requests), size):
            self._progress(at, len(requests))
            part = requests[at : at + size]
            prompts, params = [], []
            for request in part:
                context, wanted = request.args
                params.append(self._params(dict(wanted)))
                room = self.llm.model.context - params[-1].max_tokens
                prompts.append(self.tok_encode(context)[-max(1, room) :])
            found = [done.text for done in self.llm.generate(prompts, params)]
            for request, text in zip(part, found, strict=True):
                self.cache_hook.add_partial("generate_until", request.args, text)
            texts += found
        return texts

    def _score(
        self, scorer: Scorer, context: list[int], continuation: list[int]
    ) -> tuple[float, bool]:
        """A text too long loses the beginning of its context."""
        room = scorer.max_tokens + 1 - len(continuation)
        if room < 1:
            raise ArgumentError(
                "continuation",
                got=f"{len(continuation)} tokens",
                expected=f"at most {scorer.max_tokens}",
                fix="raise num_tokens where the model's own context is longer",
            )
        scores = scorer.score(context[-room:], continuation)
        return math.fsum(scores.logprobs), bool(scores.greedy.all())

    def _params(self, wanted: dict[str, Any]) -> SamplingParams:
        until = wanted.get("until") or []
        sampled = bool(wanted.get("do_sample", False))
        return SamplingParams(
            temperature=float(wanted.get("temperature", 1.0)) if sampled else 0.0,
            top_p=float(wanted.get("top_p", 1.0)),
            top_k=int(wanted.get("top_k", 0)),
            seed=0 if sampled else None,
            max_tokens=int(wanted.get("max_gen_toks", self.max_gen_toks)),
            stop=tuple(text for text in ([until] if isinstance(until, str) else until) if text),
        )


def main() -> None:
    """The harness's own command line, with this model registered."""
    from lm_eval.__main__ import cli_evaluate

    try:
        cli_evaluate()
    except HalfbyteError as error:
        print(f"halfbyte: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
