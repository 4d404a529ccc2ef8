"""`halfbyte serve`."""

from __future__ import annotations

import os
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from halfbyte.api.options import AsyncOptions
from halfbyte.checks import check_one_of
from halfbyte.cli.options import Ckpt, LlmOptions, with_options
from halfbyte.errors import ArgumentError
from halfbyte.server.options import ServeOptions, read_api_keys

if TYPE_CHECKING:
    from halfbyte.api.llm import LLM

_NEEDED = ("starlette", "uvicorn", "pydantic", "prometheus_client")


@with_options(without=("model_name",), max_batch=16, num_tokens=32768)
def serve(
    ckpt: Ckpt,
    *,
    server: ServeOptions,
    model_name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Model name that clients use.  [default: the last part of CKPT]"),
    ] = None,
    cascade: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--cascade",
            "-c",
            help="Cascade of requests that name none.  [default: auto]",
        ),
    ] = None,
    allow_cascade: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            help="Another cascade that a request may choose; may be given several times."
            "  [default: the nested pair and n-grams, as far as the weights allow]"
        ),
    ] = None,
    llm_options: LlmOptions,
    queue: AsyncOptions,
    api_key_file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="File of keys, one per line. HALFBYTE_API_KEY adds one.  [default: no key needed]"
        ),
    ] = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Serve OpenAI's HTTP API and a playground page.

    Logs are JSON lines on stderr. SIGTERM or Ctrl-C drains: nothing new is accepted, running
    requests finish.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise ArgumentError(
            "halfbyte serve",
            got=f"no {', '.join(missing)}",
            expected="the packages of the extra 'serve'",
            fix="pip install 'halfbyte[serve]'",
        )
    check_one_of("log_level", log_level, ("debug", "info", "warning", "error"), "choose one")
    from halfbyte.server.run import serve as run

    keys = read_api_keys(api_key_file)
    llm = llm_options.open(ckpt, cascade)
    allowed = tuple(allow_cascade) if allow_cascade else _allowed(llm)
    server = replace(
        server,
        model_name=model_name or _name_of(ckpt),
        api_keys=keys,
        allowed_hosts=tuple(name.lower() for name in server.allowed_hosts),
        cascades=allowed,
    )
    run(llm, replace(queue, cascades=allowed), server, log_level)


def _allowed(llm: LLM) -> tuple[str, ...]:
    """Cascades of the default's own target: a race in the playground needs two."""
    target = llm.cascade.target
    nested = [f"w4a8 > {target}"] if target.weight_bits == 8 else []
    return (*nested, f"ngram > {target}")


def _name_of(ckpt: str) -> str:
    """A name without the path: clients need not know where the model lies."""
    path = Path(ckpt)
    if not os.path.exists(path):  # False, not an error, for a name too long
        return ckpt
    name = path.resolve().name
    return name.removesuffix(".gguf") if path.is_file() else name
