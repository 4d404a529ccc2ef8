"""Chat templates: a model's own Jinja source, run in a process of its own (template_worker)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from halfbyte.errors import ArgumentError, FormatError
from halfbyte.text.template_process import TemplateProcess

MAX_TEMPLATE_CHARS = 1 << 20
RENDER_SECONDS = 10.0  # a long conversation takes milliseconds
Message = Mapping[str, Any]


class ChatTemplate:
    """Messages to prompt text. One render at a time; callable from any thread."""

    def __init__(
        self,
        source: str | None,
        *,
        bos_token: str,
        eos_token: str,
        render_seconds: float = RENDER_SECONDS,
    ) -> None:
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
        self._seconds = render_seconds
        self._process = TemplateProcess(source)
        self._names: list[str] = _checked(self._process.load())["names"]

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
            request = json.dumps({"values": values}).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise ArgumentError(
                "messages",
                got=str(error)[:200],
                expected="JSON values",
                fix="give text and numbers",
            ) from error
        return str(_checked(self._process.ask(request, self._seconds))["text"])


def _checked(answer: dict[str, Any]) -> dict[str, Any]:
    if "refused" in answer:
        raise ArgumentError(
            "messages",
            got=f"refused by the model's template: {answer['refused']}",
            expected="messages in a form the model was trained on",
            fix="check the roles and their order",
        )
    if "fault" in answer:
        raise _fault(str(answer["fault"]))
    return answer


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
