"""Chat templates are code of strangers: they render, or fail by name, and reach nothing."""

from __future__ import annotations

import gc
import re
import resource
import subprocess
from pathlib import Path
from typing import Any

import pytest

from halfbyte.errors import ArgumentError, FormatError
from halfbyte.helper_process import PASSED
from halfbyte.text.chat import ChatTemplate
from tests.support.talking_model import CHAT_TEMPLATE

USER = [{"role": "user", "content": "hi"}]


def _render(source: str | None, messages: Any = USER) -> str:
    return ChatTemplate(source, bos_token="<s>", eos_token="</s>").render(messages)


def _process(template: ChatTemplate) -> subprocess.Popen[bytes]:
    assert template._process._idle is not None
    return template._process._idle._process


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


# What the sandbox lets through: only a process with limits stops these.
EXHAUSTING = {
    "doubling a string": "{% set n = namespace(x='x') %}{% for i in range(60) %}"
    "{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
    "doubling by replace": "{% set n = namespace(x='xx') %}{% for i in range(60) %}"
    "{% set n.x = n.x | replace('x', 'xx') %}{% endfor %}",
    "doubling a list, then writing it": "{% set n = namespace(x=[1]) %}{% for i in range(80) %}"
    "{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x | tojson }}",
    "loops in loops": "{% for a in range(99999) %}{% for b in range(99999) %}"
    "{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
    "branching recursion": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}"
    "{% endmacro %}{{ f(200) }}",
    "endless recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "much output": "{% for a in range(99999) %}{{ 'x' * 9999 }}{% endfor %}",
    "deep nesting": "{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}",
    "deep blocks": "{% if 1 %}" * 20_000 + "{% endif %}" * 20_000,
    "a huge number": "{{ 9 " + "* 9999999999999999999" * 20_000 + " }}",
}


@pytest.mark.parametrize("source", EXHAUSTING.values(), ids=EXHAUSTING.keys())
def test_a_template_cannot_take_more_time_or_memory_than_it_is_given(source: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(FormatError, match="bad-chat-template"):
        ChatTemplate(source, bos_token="", eos_token="", render_seconds=1.5).render(USER)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 200 << 10  # KiB


def test_a_template_that_had_to_be_ended_runs_again_for_the_next_messages() -> None:
    source = (
        "{% if messages[0].content == 'hang' %}{% for a in range(99999) %}"
        "{% for b in range(99999) %}{% endfor %}{% endfor %}{% endif %}{{ messages[0].content }}"
    )
    template = ChatTemplate(source, bos_token="", eos_token="", render_seconds=1.0)
    for _ in range(2):
        with pytest.raises(FormatError, match="bad-chat-template"):
            template.render([{"role": "user", "content": "hang"}])
        assert template.render(USER) == "hi"


def test_a_template_sees_no_file_and_no_variable_of_the_environment() -> None:
    """Even one that leaves the sandbox: its process cannot open a file and has no secrets."""
    template = ChatTemplate("{{ messages[0].content }}", bos_token="", eos_token="")
    pid = _process(template).pid
    limits = Path(f"/proc/{pid}/limits").read_text(encoding="utf-8")
    assert re.search(r"Max open files\s+3\s+3\s", limits)
    assert re.search(r"Max file size\s+0\s+0\s", limits)
    names = {v.partition("=")[0] for v in Path(f"/proc/{pid}/environ").read_text().split("\0") if v}
    assert names <= {"PYTHONPATH", "LC_CTYPE", *PASSED}


def test_the_process_ends_with_its_template() -> None:
    template = ChatTemplate("x", bos_token="", eos_token="")
    process = _process(template)
    del template
    gc.collect()
    assert process.poll() is not None


def test_tools_and_variables_reach_the_template() -> None:
    source = "{{ tools[0].function.name }}{{ enable_thinking }}{{ bos_token }}"
    template = ChatTemplate(source, bos_token="<s>", eos_token="")
    tools = [{"type": "function", "function": {"name": "f"}}]
    variables = {"enable_thinking": False, "bos_token": "not mine", "messages": []}
    assert template.render(USER, tools=tools, variables=variables) == "fFalse<s>"
    assert template.supports_tools
    assert not ChatTemplate(CHAT_TEMPLATE, bos_token="", eos_token="").supports_tools


def test_messages_that_are_no_json_are_refused() -> None:
    template = ChatTemplate("x", bos_token="", eos_token="")
    with pytest.raises(ArgumentError, match="JSON"):
        template.render([{"role": "user", "content": object()}])


def test_a_model_without_a_template_says_so() -> None:
    with pytest.raises(ArgumentError, match="plain prompt"):
        _render(None)
