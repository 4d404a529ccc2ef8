"""Tables of a command's options in the documentation, made from the program.

    python docs/cli_reference.py --write docs/cli.md docs/server.md
    python docs/cli_reference.py --check docs/cli.md docs/server.md   # status 1 if a file is stale

A table stands between `<!-- options: VERB -->` and `<!-- options: end -->`;
VERB `all` is every verb with its summary.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from halfbyte.cli.main import command

_TABLE = re.compile(r"(<!-- options: ([\w-]+) -->\n).*?(<!-- options: end -->)", re.DOTALL)


def main() -> None:
    """Write or check files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--write", type=Path, nargs="+", metavar="FILE")
    mode.add_argument("--check", type=Path, nargs="+", metavar="FILE")
    arguments = parser.parse_args()
    stale = False
    for path in arguments.write or arguments.check:
        old = path.read_text(encoding="utf-8")
        new = _TABLE.sub(lambda found: f"{found[1]}{_generated(found[2])}{found[3]}", old)
        if arguments.write:
            path.write_text(new, encoding="utf-8")
        elif new != old:
            print(f"{path} is stale: python docs/cli_reference.py --write {path}", file=sys.stderr)
            stale = True
    raise SystemExit(stale)


def _generated(verb: str) -> str:
    if verb != "all":
        return _table(command().commands[verb])
    return "".join(_section(name, verb) for name, verb in sorted(command().commands.items()))


def _section(name: str, verb: Any) -> str:
    arguments = [p for p in verb.params if not p.opts[0].startswith("-")]
    shown = [_argument(p) for p in arguments]
    usage = " ".join(["halfbyte", name, *shown, "[OPTIONS]"])
    summary = "\n".join(line.strip() for line in (verb.help or "").splitlines())
    listed = "".join(
        f"- `{text}`: {p.help}\n" for text, p in zip(shown, arguments, strict=True) if p.help
    )
    parts = [f"## {name}", f"    {usage}", summary.strip(), listed.strip(), _table(verb).strip()]
    return "\n" + "\n\n".join(part for part in parts if part) + "\n"


def _argument(parameter: Any) -> str:
    name = (parameter.metavar or parameter.name).strip("{}[]").upper()
    return name if parameter.required else f"[{name}]"


def _table(verb: Any) -> str:
    """One row per option, in the order of --help."""
    rows = [
        _row(option)
        for option in verb.params
        if option.name != "help" and option.opts[0].startswith("-")
    ]
    return "\n".join(["", "| option | default | |", "|---|---|---|", *rows, "", ""])


def _row(option: Any) -> str:
    names = sorted(option.opts, key=lambda name: -len(name)) + option.secondary_opts
    text, _, told = (option.help or "").partition("  [default: ")
    default = told.removesuffix("]") or _default(option)
    cells = [", ".join(f"`{name}`" for name in names), default, text.strip()]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(option: Any) -> str:
    if option.required:
        return "required"
    if option.default is None or option.default is False:
        return ""
    return "on" if option.default is True else f"`{option.default}`"


if __name__ == "__main__":
    main()
