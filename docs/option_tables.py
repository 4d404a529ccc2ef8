"""Tables of a command's options in the documentation, made from the program.

    python docs/option_tables.py --write docs/server.md
    python docs/option_tables.py --check docs/server.md   # status 1 if the file is stale

A table stands between `<!-- options: VERB -->` and `<!-- options: end -->`.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from halfbyte.cli.main import command

_TABLE = re.compile(r"(<!-- options: (\w+) -->\n).*?(<!-- options: end -->)", re.DOTALL)


def main() -> None:
    """Write or check one file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument("--write", type=Path, metavar="FILE")
    choice.add_argument("--check", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    path: Path = arguments.write or arguments.check
    old = path.read_text(encoding="utf-8")
    new = _TABLE.sub(lambda found: f"{found[1]}{table(found[2])}{found[3]}", old)
    if arguments.write:
        path.write_text(new, encoding="utf-8")
    elif new != old:
        print(f"{path} is stale: python docs/option_tables.py --write {path}", file=sys.stderr)
        raise SystemExit(1)


def table(verb: str) -> str:
    """One row an option, in the order of --help."""
    lines = ["", "| option | default | |", "|---|---|---|"]
    for option in command().commands[verb].params:
        if option.name != "help" and option.opts[0].startswith("-"):
            lines.append(_row(option))
    return "\n".join([*lines, "", ""])


def _row(option: Any) -> str:
    names = sorted(option.opts, key=lambda name: -len(name)) + option.secondary_opts
    text, _, told = (option.help or "").partition("  [default: ")
    default = told.removesuffix("]") or ("" if option.default is None else f"`{option.default}`")
    cells = [", ".join(f"`{name}`" for name in names), default, text.strip()]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    main()
