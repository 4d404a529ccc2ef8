"""Chat templates: a model's own Jinja source, run in a sandbox since it comes with the model."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import jinja2
import jinja2.meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from halfbyte.errors import ArgumentError, FormatError

MAX_TEMPLATE_CHARS = 1 << 20
MAX_VALUE = 1 << 24  # length of a string or list a template may build by repeating
Message = Mapping[str, Any]

# What can build a huge string from a small template.
_GROWING_FILTERS = ("center", "format", "indent", "wordwrap", "xmlattr")
_GROWING_METHODS = ("center", "expandtabs", "format", "format_map", "ljust", "rjust", "zfill")


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, which also refuses to grow values without bound."""

    intercepted_binops = frozenset(["*", "**", "%"])

    def call_binop(
        self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any
    ) -> Any:
        if operator == "**":
            raise jinja2.exceptions.SecurityError("powers are not allowed in a chat template")
        if operator == "%" and isinstance(left, str | bytes):
            raise jinja2.exceptions.SecurityError("'%' formatting is not allowed")
        if operator == "*":
            for a, b in ((left, right), (right, left)):
                if hasattr(a, "__len__") and isinstance(b, int) and len(a) * b > MAX_VALUE:
                    raise jinja2.exceptions.SecurityError("a repeated value is too long")
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> None:
        """No sandboxed `str.format` either: `is_safe_attribute` refuses it."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str) and attr in _GROWING_METHODS:
            return False
        return super().is_safe_attribute(obj, attr, value)


class ChatTemplate:
    """Messages to prompt text."""

    def __init__(self, source: str | None, *, bos_token: str, eos_token: str) -> None:
        if source is None:
            raise ArgumentError(
                "chat",
                got="a model without a chat template",
                expected="an instruct model",
                fix="give a plain prompt instead of messages",
            )
        if len(source) > MAX_TEMPLATE_CHARS:
            raise _fault(f"{len(source)} characters")
        self.source = source
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        environment = _Environment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        for name in _GROWING_FILTERS:
            environment.filters.pop(name, None)
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = _now
        try:
            self._template = environment.from_string(source)
            self._names = jinja2.meta.find_undeclared_variables(environment.parse(source))
        except (jinja2.TemplateError, RecursionError, ValueError) as error:
            raise _fault(str(error)) from error

    @property
    def supports_tools(self) -> bool:
        """Whether the template reads `tools`."""
        return "tools" in self._names

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt text, ending where the assistant's answer begins.

        `variables`: what a template may read besides messages and tools, such as enable_thinking.
        """
        _check_messages(messages)
        values: dict[str, Any] = {"add_generation_prompt": True} | dict(variables or {})
        if tools is not None:
            values["tools"] = [dict(tool) for tool in tools]
        values |= self._tokens | {"messages": [dict(m) for m in messages]}
        try:
            return self._template.render(values)
        except _RefusedError as error:
            raise ArgumentError(
                "messages",
                got=f"refused by the model's template: {error}",
                expected="messages in a form the model was trained on",
                fix="check the roles and their order",
            ) from error
        except Exception as error:  # a template may fail in any way Python can
            raise _fault(f"{type(error).__name__}: {error}") from error


class _RefusedError(Exception):
    """A template called `raise_exception`."""


def _refuse(message: object) -> NoReturn:
    raise _RefusedError(str(message)[:200])


def _now(form: str) -> str:
    if len(form) > 64 or any(c.isdigit() for c in form):  # a field width could be huge
        raise jinja2.exceptions.SecurityError("this date format is not allowed")
    return datetime.datetime.now().strftime(form)


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=None if indent is None else min(indent, 8))


def _check_messages(messages: object) -> None:
    fix = 'give [{"role": "user", "content": "..."}]'
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise ArgumentError(
            "messages", got=repr(messages)[:80], expected="a non-empty list of messages", fix=fix
        )
    for message in messages:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ArgumentError(
                "message", got=repr(message)[:80], expected="a mapping with a role", fix=fix
            )


def _fault(got: str) -> FormatError:
    return FormatError(
        "bad-chat-template",
        "the model's chat template",
        got=got[:200],
        expected="a Jinja template that renders",
        fix="give a plain prompt instead, or convert the model again",
    )
