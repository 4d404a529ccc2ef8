"""Chat templates are code of strangers: they render, or fail by name, and reach nothing."""

from __future__ import annotations

from typing import Any

import pytest

from halfbyte.chat import ChatTemplate
from halfbyte.errors import ArgumentError, FormatError
from tests.talking_model import CHAT_TEMPLATE

USER = [{"role": "user", "content": "hi"}]


def _render(source: str | None, messages: Any = USER) -> str:
    return ChatTemplate(source, bos_token="<s>", eos_token="</s>").render(messages)


def test_messages_end_where_the_answer_begins() -> None:
    assert _render(CHAT_TEMPLATE) == "<turn>user: hi\n<turn>assistant: "


def test_templates_may_use_what_model_authors_rely_on() -> None:
    source = (
        "{{ bos_token }}{% for m in messages %}{% if loop.index0 % 2 == 1 %}{% continue %}"
        "{% endif %}{{ m['content'] | trim | tojson }}{% endfor %}{{ strftime_now('%Y')[:2] }}"
    )
    assert _render(source, [USER[0], USER[0]]) == '<s>"hi"20'


def test_a_refusal_of_the_template_is_the_users_mistake() -> None:
    with pytest.raises(ArgumentError, match="no such role: robot"):
        _render(CHAT_TEMPLATE, [{"role": "robot", "content": ""}])


@pytest.mark.parametrize(
    "source",
    [
        "{% for",
        "{{ nothing.at.all }}",
        "{{ messages[9].content.x }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ 'x' * 10**12 }}",
        "{{ 'x' * 1000000000 }}",
        "{{ 1000000000 * 'x' }}",
        "{{ [0] * 1000000000 }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ 'x'.ljust(1000000000) }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ 'x' | center(1000000000) }}",
        "{{ strftime_now('%1000000000d') }}",
        "{{ range(1000000000) | list }}",
        "{{ 1 / 0 }}",
        "{{ raise_exception }}{{ messages | map('x') | list }}",
    ],
)
def test_a_broken_or_hostile_template_is_a_named_fault(source: str) -> None:
    with pytest.raises(FormatError, match="bad-chat-template") as error:
        _render(source)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("messages", [[], "hi", None, [1], [{}], [{"role": 3}], {"role": "user"}])
def test_what_is_no_list_of_messages_is_refused(messages: Any) -> None:
    with pytest.raises(ArgumentError, match="message"):
        _render(CHAT_TEMPLATE, messages)


def test_a_model_without_a_template_says_so() -> None:
    with pytest.raises(ArgumentError, match="plain prompt"):
        _render(None)
