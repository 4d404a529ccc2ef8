"""The process in which chat templates run: one template, bounded memory, no files, no secrets.

A template comes with a model and may do anything Jinja can: the sandbox keeps it from Python's
inside, but no rule over expressions bounds what loops and doubling strings take. A process does:
its memory is limited here, its time by `helper_process`, which ends it. It is run by path and
speaks the frames of `helper_worker`. First {"sources"} -> {"names"}, both by the names of the
templates; then {"template", "values"} -> {"text"}; or {"refused"} or {"fault"}.
"""

from __future__ import annotations

import datetime
import resource
import signal
import sys
from typing import Any

import jinja2
import jinja2.meta
from jinja2.exceptions import SecurityError

from halfbyte.helper_worker import ORPHAN_SECONDS, confine, receive, send
from halfbyte.text.template_language import RefusedError, environment

MEMORY_BYTES = 512 << 20  # of address space; Python and Jinja map some 60 MiB
MAX_TEXT_CHARS = 1 << 24


def _import_the_rest(language: jinja2.Environment) -> None:
    """Jinja imports some of itself when it first renders, fails or is asked for randomness."""

    template = (
        "{% macro f() %}{{ [1] | map('upper') | list | tojson | wordwrap }}{% endmacro %}"
        "{{ f() }}{{ [1] | pprint }}{{ lipsum(1) }}{{ 'a b' | urlize | striptags }}"
    )
    language.from_string(template).render()
    for bad in ("{% for", "{{ a.b.c }}"):
        _answer(lambda source=bad: {"text": language.from_string(source).render()})
    datetime.datetime.now().strftime("%d %b %Y")
    "".encode("idna")


def _answer(work: Any, *arguments: Any) -> dict[str, Any]:
    try:
        found: dict[str, Any] = work(*arguments)
        return found
    except RefusedError as error:
        return {"refused": str(error)}
    except Exception as error:  # a template may fail in any way Python can
        return {"fault": f"{type(error).__name__}: {error}"[:400]}


def _render(template: jinja2.Template, values: dict[str, Any]) -> dict[str, Any]:
    pieces, length = [], 0
    for piece in template.generate(values):
        length += len(piece)
        if length > MAX_TEXT_CHARS:
            raise SecurityError(f"more than {MAX_TEXT_CHARS} characters")
        pieces.append(piece)
    return {"text": "".join(pieces)}


def main() -> None:
    """Serve one template until stdin ends."""
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    language = environment()
    _import_the_rest(language)
    confine(MEMORY_BYTES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))  # nothing below opens a file
    first = receive(stdin)
    if first is None:
        return
    number, request = first
    sources: dict[str, str] = request["sources"]
    templates: dict[str, jinja2.Template] = {}

    def load() -> dict[str, Any]:
        names = {}
        for name, source in sources.items():
            try:
                templates[name] = language.from_string(source)
                found = jinja2.meta.find_undeclared_variables(language.parse(source))
            except Exception:  # another than the default one is a fault only if it is used
                if name == "default":
                    raise
                found = set()
            names[name] = sorted(found)
        return {"names": names}

    def render(name: str, values: dict[str, Any]) -> dict[str, Any]:
        return _render(templates.get(name) or language.from_string(sources[name]), values)

    send(stdout, number, _answer(load))
    while templates and (following := receive(stdin)) is not None:
        number, request = following
        signal.alarm(ORPHAN_SECONDS)
        send(stdout, number, _answer(render, request["template"], request["values"]))
        signal.alarm(0)


if __name__ == "__main__":
    main()
