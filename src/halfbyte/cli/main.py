"""The `halfbyte` command: verbs, exit statuses, what a user sees when something is wrong.

0: done. 1: broken pipe, or a failed check. 2: a mistake in an argument, a file or a model; one
line on stderr says which. 130: interrupted.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import typer
import typer.main

import halfbyte
from halfbyte.cli.bench import bench
from halfbyte.cli.convert import convert
from halfbyte.cli.demo import demo
from halfbyte.cli.doctor import doctor
from halfbyte.cli.eval import evaluate
from halfbyte.cli.generate import generate
from halfbyte.cli.inspect import inspect
from halfbyte.cli.plan import plan
from halfbyte.cli.quantize import quantize
from halfbyte.cli.report import report
from halfbyte.cli.serve import serve
from halfbyte.cli.train_eagle import train_eagle
from halfbyte.errors import HalfbyteError

_EXIT_MISTAKE = 2
_EXIT_INTERRUPTED = 130


def _version(value: bool) -> None:
    if value:
        typer.echo(f"halfbyte {halfbyte.__version__}")
        raise typer.Exit


def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Decode quantized language models faster, with exactly the same output.

    CKPT is a checkpoint directory, a GGUF file, a Hugging Face directory or hub id, or
    smollm2-135m; anything but a checkpoint is converted once into a cache.
    """


def command() -> Any:
    """The whole command line, as click sees it."""
    return typer.main.get_command(_build())


def _build() -> typer.Typer:
    app = typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for verb in (convert, quantize, generate, inspect, doctor, bench, plan, report, serve, demo):
        app.command()(verb)
    app.command("train-eagle")(train_eagle)
    app.command("eval")(evaluate)
    return app


def run(arguments: list[str]) -> int:
    """Run one command line; returns its exit status."""
    try:
        status = command().main(
            args=arguments or ["--help"], prog_name="halfbyte", standalone_mode=False
        )
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except HalfbyteError as error:
        return _fail(str(error), _EXIT_MISTAKE)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", _EXIT_INTERRUPTED)
    except BrokenPipeError:
        # The reader has gone: nothing more can be said on stdout, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except MemoryError:
        return _fail("out of memory; use a smaller model or --num-tokens", _EXIT_MISTAKE)
    except Exception as error:
        # Usage errors: typer may bring its own copy of click, so they are known by what they offer.
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        return _fail(f"{message()} (halfbyte --help shows the options)", _EXIT_MISTAKE)


def _fail(message: str, status: int) -> int:
    try:
        print(f"halfbyte: {' '.join(message.split())}", file=sys.stderr)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    return status


def main() -> None:
    """Entry point of the installed command."""
    sys.exit(run(sys.argv[1:]))
