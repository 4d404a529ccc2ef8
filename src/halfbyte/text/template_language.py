"""The Jinja that chat templates are written in: transformers' dialect, in a bounded sandbox.

Every filter, method and global that transformers gives a template is here and does the same.
What could build a huge value in one step from a small template is bounded; what loops and
repeated doubling build is the business of the process it runs in (`template_worker`).
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable
from types import BuiltinMethodType
from typing import Any, NoReturn

import jinja2
from jinja2 import filters, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from markupsafe import Markup

MAX_VALUE = 1 << 24  # length of a string or list that one step may build
MAX_WIDTH = 4096  # of a formatted field, or of an indent
MAX_POWER_BITS = 4096
MAX_DATE_CHARS = 1024

_NUMBERS = re.compile(r"\d+")
# Methods of strings that grow them -> how long the result may be.
_GROWING: dict[str, Callable[..., int]] = {
    "center": lambda text, width, *_: width,
    "ljust": lambda text, width, *_: width,
    "rjust": lambda text, width, *_: width,
    "zfill": lambda text, width: width,
    "expandtabs": lambda text, tabsize=8: text.count("\t") * tabsize,
    "replace": lambda text, old, new, count=-1: _replaced(text, old, new, count),
}


class RefusedError(Exception):
    """A template called `raise_exception`."""


class _Generation(Extension):
    """`{% generation %}` around what the model writes: a block of its own, shown as it is."""

    tags = {"generation"}  # noqa: RUF012 - the base class's type

    def parse(self, parser: Parser) -> nodes.Node:
        """See Jinja's documentation of extensions."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_written"), [], [], body).set_lineno(line)

    def _written(self, caller: Callable[[], str]) -> str:
        return caller()


class _Formatter(SandboxedFormatter):
    """`str.format` with bounded widths, those that are arguments too."""

    def format_field(self, value: Any, format_spec: str) -> Any:
        """See `string.Formatter`."""
        _check_widths(format_spec)
        return super().format_field(value, format_spec)


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, which also refuses to grow values without bound."""

    intercepted_binops = frozenset(["*", "**", "%"])

    def call_binop(
        self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any
    ) -> Any:
        """See Jinja's sandbox."""
        if operator == "**":
            _check_power(left, right)
        if operator == "%" and isinstance(left, str):
            _check_percent(left)
        if operator == "*":
            for a, b in ((left, right), (right, left)):
                if hasattr(a, "__len__") and isinstance(b, int):
                    _check_size(len(a) * b)
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """See Jinja's sandbox: what `str.format` and `str.format_map` are replaced by."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None or isinstance(value.__self__, Markup):
            return None if wrapped is None else _refuse_markup
        text, is_map = value.__self__, value.__name__ == "format_map"

        def bounded(*args: Any, **kwargs: Any) -> str:
            if is_map:
                (kwargs,), args = args, ()
            return _Formatter(self).vformat(text, args, kwargs)

        return bounded

    def call(self, context: jinja2.runtime.Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """See Jinja's sandbox."""
        if isinstance(obj, BuiltinMethodType) and isinstance(obj.__self__, str):
            length = _GROWING.get(obj.__name__)
            if length is not None:
                _check_size(length(obj.__self__, *args, **kwargs))
        return super().call(context, obj, *args, **kwargs)


def environment() -> jinja2.Environment:
    """A new one, with all that templates may use."""
    result = _Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_Generation, "jinja2.ext.loopcontrols"],
    )
    result.filters |= {
        "tojson": _to_json,
        "indent": _indent,
        "center": _center,
        "format": _format,
        "wordwrap": _wordwrap,
        "replace": _replace,
    }
    result.globals["raise_exception"] = _refuse
    result.globals["strftime_now"] = _now
    return result


def _refuse(message: object) -> NoReturn:
    raise RefusedError(str(message)[:200])


def _refuse_markup(*_: Any, **__: Any) -> NoReturn:
    raise SecurityError("escaped text cannot be formatted in a chat template")


def _now(form: str) -> str:
    if len(form) > MAX_DATE_CHARS:
        raise SecurityError("this date format is too long")
    # A width stands right after the flags; any other number is text.
    for width in re.findall(r"%[-_0^#+]*(\d+)", form):
        _check_width(width)
    return datetime.datetime.now().strftime(form)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    for text in (indent, *(separators or ())):
        if isinstance(text, int) and text > MAX_WIDTH:
            raise SecurityError("an indent is too wide")
        if isinstance(text, str) and len(text) > MAX_WIDTH:
            raise SecurityError("a separator is too long")
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _indent(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    each = width if isinstance(width, int) else len(width)
    _check_size((str(text).count("\n") + 2) * each)
    return filters.do_indent(text, width, first, blank)


def _center(value: str, width: int = 80) -> str:
    _check_size(width)
    return filters.do_center(value, width)


def _format(value: str, *args: Any, **kwargs: Any) -> str:
    _check_percent(str(value))
    return filters.do_format(value, *args, **kwargs)


@jinja2.pass_environment
def _wordwrap(
    environment: jinja2.Environment,
    text: str,
    width: int = 79,
    break_long_words: bool = True,
    wrapstring: str | None = None,
    break_on_hyphens: bool = True,
) -> str:
    _check_size((len(str(text)) + 1) * len(wrapstring or "\n"))
    return filters.do_wordwrap(
        environment, text, width, break_long_words, wrapstring, break_on_hyphens
    )


@jinja2.pass_eval_context
def _replace(
    eval_ctx: nodes.EvalContext, text: str, old: str, new: str, count: int | None = None
) -> str:
    _check_size(_replaced(str(text), str(old), str(new), -1 if count is None else count))
    return filters.do_replace(eval_ctx, text, old, new, count)


def _replaced(text: str, old: str, new: str, count: int) -> int:
    found = text.count(old)
    return len(text) + (found if count < 0 else min(found, count)) * len(new)


def _check_size(size: Any) -> None:
    if isinstance(size, int) and size > MAX_VALUE:
        raise SecurityError(f"a value would be longer than {MAX_VALUE}")


def _check_width(digits: str) -> None:
    if len(digits) > len(str(MAX_WIDTH)) or int(digits) > MAX_WIDTH:
        raise SecurityError(f"a field wider than {MAX_WIDTH}")


def _check_widths(specification: str) -> None:
    for digits in _NUMBERS.findall(specification):
        _check_width(digits)


def _check_percent(form: str) -> None:
    """Of a conversion: flags, a width and a precision, which may be arguments where it says *."""
    for specification in re.findall(r"%(?:\([^)]*\))?([-#0 +]*[\d*]*(?:\.[\d*]*)?)", form):
        if "*" in specification:
            raise SecurityError("a width that is an argument is not allowed")
        _check_widths(specification)


def _check_power(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * max(right, 0)
        if bits > MAX_POWER_BITS:
            raise SecurityError(f"a power of more than {MAX_POWER_BITS} bits")
