"""The process in which chat templates run: one template, bounded memory, no files, no secrets.

A template comes with a model and may do anything Jinja can: the sandbox keeps it from Python's
inside, but no rule over expressions bounds what loops and doubling strings take. A process does:
its memory is limited here, its time by `helper_process`, which ends it. It is run by path and
speaks frames on stdin and stdout: 8 bytes of length, 8 bytes with the request's number, which the
reply repeats, JSON. First {"sources"} -> {"names"}, both by the names of the templates; then
{"template", "values"} -> {"text"}; or {"refused"} or {"fault"}.
"""

from __future__ import annotations

import datetime
import json
import resource
import signal
import struct
import sys
from typing import Any, BinaryIO

import jinja2
import jinja2.meta
from jinja2.exceptions import SecurityError

from halfbyte.text.template_language import RefusedError, environment

MEMORY_BYTES = 512 << 20  # of address space; Python and Jinja map some 60 MiB
MAX_TEXT_CHARS = 1 << 24
MAX_FRAME_BYTES = 1 << 28
ORPHAN_SECONDS = 300  # of one request: ends a process whose parent was killed and cannot end it
_HEAD = struct.Struct(">QQ")  # bytes of JSON that follow, number of the request


def _confine() -> None:
    """Nothing below reads or writes a file; what it allocates is bounded."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))


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


def _receive(stream: BinaryIO) -> tuple[int, Any] | None:
    """The next request and its number; None at the end."""
    head = stream.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    size, number = _HEAD.unpack(head)
    return number, json.loads(stream.read(min(size, MAX_FRAME_BYTES)))


def _send(stream: BinaryIO, number: int, values: dict[str, Any]) -> None:
    data = json.dumps(values).encode()
    stream.write(_HEAD.pack(len(data), number) + data)
    stream.flush()


def main() -> None:
    """Serve one template until stdin ends."""
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    language = environment()
    _import_the_rest(language)
    _confine()
    first = _receive(stdin)
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

    _send(stdout, number, _answer(load))
    while templates and (following := _receive(stdin)) is not None:
        number, request = following
        signal.alarm(ORPHAN_SECONDS)
        _send(stdout, number, _answer(render, request["template"], request["values"]))
        signal.alarm(0)


if __name__ == "__main__":
    main()
