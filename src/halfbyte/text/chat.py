"""Chat templates: a model's own Jinja source, run in a process of its own (template_worker)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from halfbyte.errors import ArgumentError, FormatError
from halfbyte.helper_process import HelperProcess

MAX_TEMPLATE_CHARS = 1 << 20  # of all templates of a model together
RENDER_SECONDS = 10.0  # a long conversation takes milliseconds
Message = Mapping[str, Any]
_WORKER = Path(__file__).with_name("template_worker.py")

# transformers' own: some templates look for it.
_CONTINUED = "CONTINUE_FINAL_MESSAGE_TAG "
# Names under which a message's reasoning comes; the first is the one most templates read.
_REASONING = ("reasoning_content", "thinking", "reasoning")


class ChatTemplate:
    """Messages to prompt text. One render at a time; callable from any thread."""

    def __init__(
        self,
        source: str | None,
        *,
        bos_token: str,
        eos_token: str,
        special_tokens: Mapping[str, str] | None = None,
        named: Mapping[str, str] | None = None,
        render_seconds: float = RENDER_SECONDS,
    ) -> None:
        """`named`: the model's other templates; `tool_use` is the one for tools.

        `special_tokens`: further ones that a template may name, such as pad_token.
        """
        if source is None:
            raise ArgumentError(
                "chat",
                got="a model without a chat template",
                expected="an instruct model",
                fix="give a plain prompt instead of messages",
            )
        self.sources = {**(named or {}), "default": source}
        size = sum(map(len, self.sources.values()))
        if size > MAX_TEMPLATE_CHARS:
            raise _fault(f"{size} characters")
        tokens = {**(special_tokens or {}), "bos_token": bos_token, "eos_token": eos_token}
        self._tokens = {name: text for name, text in tokens.items() if text}
        self._seconds = render_seconds
        # All templates but the default one may be broken until they are asked for.
        self._process = HelperProcess(_WORKER, "the chat template", {"sources": self.sources})
        names = _checked(self._process.load())["names"]
        self._tool_template = "tool_use" if "tool_use" in self.sources else "default"
        self.supports_tools = _reads(names, self._tool_template, "tools")

    @property
    def source(self) -> str:
        """The template of a conversation without tools."""
        return self.sources["default"]

    @property
    def tool_source(self) -> str:
        """The template of a conversation with tools."""
        return self.sources[self._tool_template]

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool = False,
        keep_none: bool = False,
    ) -> str:
        """The prompt text, ending where the assistant's answer begins.

        `variables`: what a template may read besides messages and tools, such as enable_thinking.
        With `continue_final_message` the prompt ends inside the last message, which the answer
        continues; `add_generation_prompt` is what the template gets, by default the opposite.
        A field that is None is left out, as transformers does it, unless `keep_none`.
        """
        _check_messages(messages)
        if continue_final_message and add_generation_prompt:
            raise ArgumentError(
                "continue_final_message",
                got="add_generation_prompt with it",
                expected="one of them: the last message goes on, or an answer begins",
                fix="leave add_generation_prompt out",
            )
        begins = (
            not continue_final_message
            if add_generation_prompt is None
            else bool(add_generation_prompt)
        )
        put = [_put(message, keep_none=keep_none) for message in messages]
        final = _marked(put) if continue_final_message else None
        values: dict[str, Any] = {"tools": None, "documents": None} | dict(variables or {})
        if tools is not None:
            values["tools"] = [dict(tool) for tool in tools]
        values |= self._tokens | {"messages": put, "add_generation_prompt": begins}
        name = self._tool_template if tools is not None else "default"
        text = self._rendered({"template": name, "values": values})
        return text if final is None else _continued(text, final)

    def _rendered(self, values: dict[str, Any]) -> str:
        try:
            request = json.dumps(values).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise ArgumentError(
                "messages",
                got=str(error)[:200],
                expected="JSON values",
                fix="give text and numbers",
            ) from error
        return str(_checked(self._process.ask(request, self._seconds))["text"])


def _put(message: Message, *, keep_none: bool) -> dict[str, Any]:
    """A message as templates read it, reasoning under each of its names."""
    put = {name: value for name, value in message.items() if keep_none or value is not None}
    thought = next((put[name] for name in _REASONING if put.get(name) is not None), None)
    if thought is not None:
        put = {"thinking": thought} | put | {"reasoning_content": thought}
    return put


def _marked(messages: list[dict[str, Any]]) -> str:
    """Mark where the last message ends; returns the text that is to be continued."""
    content = messages[-1].get("content")
    if isinstance(content, str):
        messages[-1]["content"] = content + _CONTINUED
        return content
    parts = [dict(part) for part in content] if isinstance(content, list) else []
    for part in reversed(parts):
        if isinstance(text := part.get("text"), str):
            part["text"] = text + _CONTINUED
            messages[-1]["content"] = parts
            return text
    raise ArgumentError(
        "continue_final_message",
        got="a last message without text",
        expected="one whose content goes on",
        fix="give the beginning of the answer as the last message",
    )


def _continued(text: str, final: str) -> str:
    """A prompt without what the template writes after the last message."""
    at = text.rfind(_CONTINUED.strip())
    if at < 0 or final.strip() not in text:
        raise ArgumentError(
            "continue_final_message",
            got="a template that does not show the last message as it is",
            expected="one that does",
            fix="begin the answer with a plain prompt instead",
        )
    kept_spaces = text.startswith(_CONTINUED, at)
    return text[:at] if kept_spaces else text[:at].rstrip()


def _reads(names: Any, template: str, variable: str) -> bool:
    found = names.get(template) if isinstance(names, dict) else None
    return isinstance(found, list) and variable in found


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
