"""The `halfbyte` command: verbs, exit statuses, what a user sees when something is wrong.

0: done. 1: what was printed could not be written (no reader, a full disk), or a failed check. 2: a
mistake in an argument, a file or a model; one line on stderr says which. 130: interrupted.
"""

from __future__ import annotations

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
from halfbyte.cli.output import note
from halfbyte.cli.plan import plan
from halfbyte.cli.quantize import quantize
from halfbyte.cli.report import report
from halfbyte.cli.serve import serve
from halfbyte.cli.streams import OutputError, abandon, prepare
from halfbyte.cli.train_eagle import train_eagle
from halfbyte.errors import HalfbyteError, told

_EXIT_UNWRITTEN = 1
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
        abandon(sys.stdout)
        return _EXIT_UNWRITTEN
    except OutputError as error:
        abandon(sys.stdout)
        return _fail(f"standard output: {error}", _EXIT_UNWRITTEN)
    except MemoryError:
        return _fail("out of memory; use a smaller model or --num-tokens", _EXIT_MISTAKE)
    except OSError as error:
        named = f"{error.filename}: " if error.filename is not None else ""
        return _fail(f"{named}{told(error)}", _EXIT_MISTAKE)
    except Exception as error:
        # Usage errors: typer may bring its own copy of click, so they are known by what they offer.
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        return _fail(f"{message()} (halfbyte --help shows the options)", _EXIT_MISTAKE)


def _fail(message: str, status: int) -> int:
    note(f"halfbyte: {' '.join(message.split())}")
    return status


def main() -> None:
    """Entry point of the installed command."""
    prepare()
    status = run(sys.argv[1:])
    try:
        sys.stdout.flush()  # what an error has left there
    except (OutputError, BrokenPipeError):
        abandon(sys.stdout)
        status = status or _EXIT_UNWRITTEN
    sys.exit(status)
