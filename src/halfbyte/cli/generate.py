"""`halfbyte generate`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from halfbyte.cli.options import Ckpt, Json, LlmOptions, with_options
from halfbyte.cli.output import note, print_json
from halfbyte.cli.streams import read_standard_input
from halfbyte.errors import ArgumentError
from halfbyte.sampling.params import SamplingParams

if TYPE_CHECKING:
    from halfbyte.api.llm import LLM
    from halfbyte.api.results import Completion


@with_options(without=("max_batch", "prefill_rows"), temperature=0.0, max_tokens=256)
def generate(
    ckpt: Ckpt,
    text: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(
            metavar="[PROMPT]",
            help="The prompt; '-', or none and a pipe, reads it from stdin.",
            show_default=False,
        ),
    ] = None,
    *,
    prompt: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--prompt", "-p", help="The prompt, as an option."),
    ] = None,
    chat: Annotated[
        Optional[bool],  # noqa: UP045
        typer.Option(
            "--chat/--no-chat",
            help="Write the prompt out by the model's chat template.  [default: if it has one]",
        ),
    ] = None,
    system: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="System message of a chat."),
    ] = None,
    cascade: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--cascade",
            "-c",
            help="'auto', 'auto > w4a16', 'w4a8 > w8a16', 'w8a16' (plain) …  [default: auto]",
        ),
    ] = None,
    llm_options: LlmOptions,
    params: SamplingParams,
    json: Json = False,
) -> None:
    """Answer or complete a prompt and stream the text to stdout.

    A model that comes with a chat template gets the prompt as a user's message.

    The output is that of plain decoding at the cascade's last level, whatever drafts for it.
    """
    said = _prompt(text, prompt)
    if system is not None and chat is False:
        raise ArgumentError("--system", got="--no-chat", expected="a chat", fix="drop one of them")
    llm = llm_options.open(ckpt, cascade)
    asked: Any = said
    if chat or system is not None or (chat is None and llm.model.source.chat_template is not None):
        asked = [{"role": "user", "content": said}]
        if system is not None:
            asked.insert(0, {"role": "system", "content": system})
    completion = None
    for chunk in llm.stream(asked, params):
        if not json:
            sys.stdout.write(chunk.text)
            sys.stdout.flush()
        completion = chunk.completion
    assert completion is not None
    if json:
        print_json(_as_dict(llm, completion))
        return
    print()
    s = completion.statistics
    note(
        f"{llm.cascade}: {s.emitted_tokens} tokens, {s.tokens_per_second:.1f} tokens/s, "
        f"tau {s.tau:.2f}, prefill of {s.prompt_tokens} in {s.prefill_seconds * 1e3:.0f} ms"
    )


def _prompt(argument: str | None, option: str | None) -> str:
    """The prompt, wherever it stands."""
    if argument is not None and option is not None:
        raise ArgumentError(
            "prompt", got="an argument and --prompt", expected="one of them", fix="drop one"
        )
    given = option if argument is None else argument
    if given is None and (sys.stdin is None or sys.stdin.isatty()):
        raise ArgumentError(
            "prompt",
            got="none",
            expected="a prompt after the model, with -p, or piped in",
            fix='say: halfbyte generate MODEL "What is gravity?"',
        )
    text = read_standard_input() if given in (None, "-") else str(given)
    if given is None and not text.strip():
        raise ArgumentError(
            "prompt", got="nothing on standard input", expected="a text", fix="pipe one in"
        )
    return text


def _as_dict(llm: LLM, completion: Completion) -> dict[str, object]:
    s = completion.statistics
    return {
        "model": llm.model.name,
        "cascade": str(llm.cascade),
        "draft_length": llm.options.draft_length,
        "text": completion.text,
        "token_ids": completion.token_ids,
        "logprobs": completion.logprobs,
        "fates": [str(fate) for fate in completion.fates],
        "finish_reason": completion.finish_reason,
        "seed": completion.seed,
        "prompt_token_ids": completion.prompt_token_ids,
        "seconds": s.seconds,
        "tokens_per_second": s.tokens_per_second,
        **s.as_dict(),
    }
