"""The process in which chat templates run: one template, bounded memory, no files, no secrets.

A template comes with a model and may do anything Jinja can: the sandbox keeps it from Python's
inside, but no rule over expressions bounds what loops and doubling strings take. A process does:
its memory is limited here, its time by `template_process`, which ends it. It is run by path,
imports nothing of this package, and speaks frames on stdin and stdout: 8 bytes of length, 8 bytes
with the request's number, which the reply repeats, JSON. First {"source"} -> {"names"}; then
{"values"} -> {"text"}; or {"refused"} or {"fault"}.
"""

from __future__ import annotations

import datetime
import json
import resource
import signal
import struct
import sys
from typing import Any, BinaryIO, NoReturn

import jinja2
import jinja2.meta
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

MEMORY_BYTES = 512 << 20  # of address space; Python and Jinja map some 60 MiB
MAX_VALUE = 1 << 24  # length of a string or list a template may build by repeating
MAX_TEXT_CHARS = 1 << 24
MAX_FRAME_BYTES = 1 << 28
ORPHAN_SECONDS = 300  # of one request: ends a process whose parent was killed and cannot end it
_HEAD = struct.Struct(">QQ")  # bytes of JSON that follow, number of the request

# What can build a huge string from a small template in one step.
_GROWING_FILTERS = ("center", "format", "indent", "wordwrap", "xmlattr")
_GROWING_METHODS = ("center", "expandtabs", "format", "format_map", "ljust", "rjust", "zfill")


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, which also refuses to grow values without bound."""

    intercepted_binops = frozenset(["*", "**", "%"])

    def call_binop(
        self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any
    ) -> Any:
        if operator == "**":
            raise SecurityError("powers are not allowed in a chat template")
        if operator == "%" and isinstance(left, str | bytes):
            raise SecurityError("'%' formatting is not allowed")
        if operator == "*":
            for a, b in ((left, right), (right, left)):
                if hasattr(a, "__len__") and isinstance(b, int) and len(a) * b > MAX_VALUE:
                    raise SecurityError("a repeated value is too long")
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> None:
        """No sandboxed `str.format` either: `is_safe_attribute` refuses it."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str) and attr in _GROWING_METHODS:
            return False
        return super().is_safe_attribute(obj, attr, value)


class _RefusedError(Exception):
    """A template called `raise_exception`."""


def _refuse(message: object) -> NoReturn:
    raise _RefusedError(str(message)[:200])


def _now(form: str) -> str:
    if len(form) > 64 or any(c.isdigit() for c in form):  # a field width could be huge
        raise SecurityError("this date format is not allowed")
    return datetime.datetime.now().strftime(form)


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=None if indent is None else min(indent, 8))


def _environment() -> _Environment:
    environment = _Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    for name in _GROWING_FILTERS:
        environment.filters.pop(name, None)
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _now
    return environment


def _confine() -> None:
    """Nothing below reads or writes a file; what it allocates is bounded."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))


def _import_the_rest(environment: _Environment) -> None:
    """Jinja imports some of itself when it first renders, fails or is asked for randomness."""

    template = "{% macro f() %}{{ [1] | map('upper') | list | tojson }}{% endmacro %}{{ f() }}"
    environment.from_string(template).render()
    for bad in ("{% for", "{{ a.b.c }}"):
        _answer(lambda source=bad: {"text": environment.from_string(source).render()})
    datetime.datetime.now().strftime("%d %b %Y")
    "".encode("idna")


def _answer(work: Any, *arguments: Any) -> dict[str, Any]:
    try:
        found: dict[str, Any] = work(*arguments)
        return found
    except _RefusedError as error:
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
    environment = _environment()
    _import_the_rest(environment)
    _confine()
    first = _receive(stdin)
    if first is None:
        return
    number, request = first
    template: jinja2.Template | None = None

    def load() -> dict[str, Any]:
        nonlocal template
        template = environment.from_string(request["source"])
        names = jinja2.meta.find_undeclared_variables(environment.parse(request["source"]))
        return {"names": sorted(names)}

    _send(stdout, number, _answer(load))
    while template is not None and (following := _receive(stdin)) is not None:
        number, request = following
        signal.alarm(ORPHAN_SECONDS)
        _send(stdout, number, _answer(_render, template, request["values"]))
        signal.alarm(0)


if __name__ == "__main__":
    main()
