"""Options that several programs share."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measure.workloads import KINDS, REPETITIVE
from halfbyte.errors import ArgumentError

# The directories of a path in `model:PATH@LEVEL` or `eagle:PATH`.
_DIRECTORIES = re.compile(r"(?<=:)[^\s>|@:]*/")


def positive(text: str) -> int:
    """An argparse type: an integer of at least 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected an integer of at least 1")
    return int(text)


def count(text: str) -> int:
    """An argparse type: an integer, 0 or more."""
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"got {text!r}, expected 0 or more")
    return int(text)


def names(text: str) -> list[str]:
    """An argparse type: names between commas."""
    found = [name.strip() for name in text.split(",") if name.strip()]
    if not found:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected names between commas")
    return found


def alias(text: str) -> tuple[str, str]:
    """An argparse type: PATH=NAME, for `renamed`."""
    path, equals, name = text.partition("=")
    if not (path and equals and name):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected PATH=NAME")
    return path, name


def renamed(text: str, names_of: dict[str, str]) -> str:
    """A cascade with names of models in the place of paths: a given one, or the path's last part.

    So no row tells where files of the machine lie.
    """
    for path, name in names_of.items():
        text = text.replace(path, name)
    return _DIRECTORIES.sub("", text)


def kinds(chosen: Sequence[str]) -> Sequence[str]:
    """The same; ArgumentError for a kind of work that there is not."""
    known = (*KINDS, *REPETITIVE)
    for kind in chosen:
        if kind not in known:
            raise ArgumentError(
                "--kinds", got=kind, expected=", ".join(known), fix="choose among those"
            )
    return chosen


def add_model(parser: argparse.ArgumentParser) -> None:
    """`--name`, `--model`, `--planes`, `--threads`."""
    parser.add_argument("--name", required=True, help="model name in rows and peer file names")
    parser.add_argument("--model", required=True, help="what halfbyte loads")
    parser.add_argument("--planes", type=int, choices=(4, 8), help="convert with that many planes")
    parser.add_argument("--threads", type=positive, default=2)


def add_peers(parser: argparse.ArgumentParser, formats: str, levels: str) -> None:
    """`--peers`, `--formats`, `--levels`, `--processes`."""
    parser.add_argument("--peers", type=Path, help="directory with bin/llama-bench and models/")
    parser.add_argument("--formats", type=names, default=formats)
    parser.add_argument("--levels", type=names, default=levels)
    parser.add_argument("--processes", type=positive, default=5)
