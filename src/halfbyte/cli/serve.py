"""`halfbyte serve`."""

from __future__ import annotations

import os
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from halfbyte.cli.options import Ckpt, LlmOptions, NumTokens, with_llm_options
from halfbyte.errors import ArgumentError

if TYPE_CHECKING:
    from halfbyte.api.llm import LLM

_NEEDED = ("starlette", "uvicorn", "pydantic", "prometheus_client")


@with_llm_options
def serve(
    ckpt: Ckpt,
    *,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 is every network.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p", help="Port; 0 picks a free one.")] = 8000,
    model_name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Name clients use.  [default: the last part of CKPT]"),
    ] = None,
    cascade: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--cascade",
            "-c",
            help="What requests get that do not choose.  [default: auto]",
        ),
    ] = None,
    allow_cascade: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            help="Another cascade that a request may choose; may be given several times."
            "  [default: the nested pair and n-grams, as far as the weights can]"
        ),
    ] = None,
    llm_options: LlmOptions,
    max_batch: Annotated[int, typer.Option(help="Most sequences decoded together.")] = 16,
    max_waiting: Annotated[
        int, typer.Option(help="Most requests that wait; beyond it they get 429.")
    ] = 256,
    num_tokens: NumTokens = 32768,
    api_key_file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="File of keys, one a line. HALFBYTE_API_KEY adds one.  [default: no key needed]"
        ),
    ] = None,
    cors_origin: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Web origin that may call from a browser; may be given several times."),
    ] = None,
    allowed_host: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            help="Host header to answer to; may be given several times."
            "  [default: on loopback its own names, else any]"
        ),
    ] = None,
    max_tokens: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Most new tokens of a request.  [default: what the context leaves]"),
    ] = None,
    max_body: Annotated[int, typer.Option(help="Most bytes of a request's body.")] = 4 << 20,
    request_timeout: Annotated[
        float, typer.Option(help="Seconds from a request's arrival to its last token.")
    ] = 600.0,
    drain: Annotated[
        float, typer.Option(help="Seconds that running requests get after SIGTERM.")
    ] = 30.0,
    playground: Annotated[bool, typer.Option(help="The page at /.")] = True,
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
    if log_level not in ("debug", "info", "warning", "error"):
        raise ArgumentError(
            "log_level",
            got=repr(log_level),
            expected="debug, info, warning or error",
            fix="choose one",
        )
    from halfbyte.api.async_engine import AsyncOptions
    from halfbyte.server.options import ServeOptions, read_api_keys
    from halfbyte.server.run import serve as run

    options = ServeOptions(
        host=host,
        port=port,
        model_name=model_name or _name_of(ckpt),
        api_keys=read_api_keys(api_key_file),
        cors_origins=tuple(cors_origin or ()),
        allowed_hosts=tuple(name.lower() for name in allowed_host or ()),
        max_body_bytes=max_body,
        max_tokens=max_tokens,
        request_timeout=request_timeout,
        drain_seconds=drain,
        playground=playground,
    )
    llm = llm_options.open(ckpt, cascade, max_batch=max_batch, num_tokens=num_tokens)
    allowed = tuple(allow_cascade) if allow_cascade else _choices(llm)
    engine_options = AsyncOptions(max_waiting=max_waiting, cascades=allowed)
    run(llm, engine_options, replace(options, cascades=allowed), log_level)


def _choices(llm: LLM) -> tuple[str, ...]:
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
