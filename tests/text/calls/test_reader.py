"""Calls are found however the text is cut, and no text is lost."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfbyte.text.calls import feed
from halfbyte.text.calls.call import Offer
from halfbyte.text.calls.forms import FORMS, REASONING
from halfbyte.text.calls.reader import AnswerReader, Style
from tests.text.calls.reading import BY_NAME, HERMES, PLACES, calls, read

ONE = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'
NOW = '{"name": "now", "arguments": {}}'
BONN = {"city": "Bonn"}
PLAIN = "json, python"
THINK = REASONING[0]


@pytest.mark.parametrize(
    ("text", "content", "names"),
    [
        ("hello", "hello", []),
        (ONE, "", ["f"]),
        ("Sure.\n" + ONE, "Sure.", ["f"]),
        (" " + ONE, " ", ["f"]),
        (ONE + "\n" + ONE.replace('"f"', '"g"'), "", ["f", "g"]),
        ("a < b <tool", "a < b <tool", []),
        ("<tool_call>not json</tool_call>", "<tool_call>not json</tool_call>", []),
        ('<tool_call>{"name": 3}</tool_call>', '<tool_call>{"name": 3}</tool_call>', []),
        ('<tool_call>{"name": "f", "arguments": {}}', "", ["f"]),
        ("<tool_call>{", "<tool_call>{", []),
        ("a\n\n<tool_call>{</tool_call>\nb\n", "a\n\n<tool_call>{</tool_call>\nb\n", []),
        (f"a\n{ONE}\n\nb\n\nc\n", "ab\n\nc\n", ["f"]),
        # A call that is none does not hide the next.
        (
            f'<tool_call>{{"broken: }}</tool_call>\n{ONE}',
            '<tool_call>{"broken: }</tool_call>',
            ["f"],
        ),
        (f"<tool_call>{ONE}", "<tool_call>", ["f"]),
        # One bracket too many; text between the call and its closing tag; no closing tag.
        (f"<tool_call>{NOW}}}</tool_call> then", " then", ["now"]),
        (f"<tool_call>{NOW} I call</tool_call> then", "I call then", ["now"]),
        (f"<tool_call>{NOW}\n<tool_call>{NOW}", "", ["now", "now"]),
        (f"{ONE} {ONE} \n", "", ["f", "f"]),
    ],
)
@settings(max_examples=25)
@given(places=PLACES)
def test_tagged_calls_are_found_however_the_text_is_cut(
    text: str, content: str, names: list[str], places: list[int]
) -> None:
    found = read(text, HERMES, places)
    assert (found.content, [c.name for c in found.calls]) == (content, names)
    assert all(isinstance(arguments, dict) for _, arguments in calls(found))


@pytest.mark.parametrize("form", [PLAIN, HERMES])
@pytest.mark.parametrize(
    ("text", "content", "names"),
    [
        ('{"name": "f", "parameters": {"x": [1]}}', "", ["f"]),
        (' [{"name": "f", "arguments": {}}, {"name": "g", "arguments": {}}]', "", ["f", "g"]),
        ("no call {", "no call {", []),
        ('{"name": "f", "arguments": 5}', '{"name": "f", "arguments": 5}', []),
        ('{"x": 1}', '{"x": 1}', []),
        ('{"name": "Ann", "age": 3}', '{"name": "Ann", "age": 3}', []),
        ('{"name": "f", "age": 3}', '{"name": "f", "age": 3}', []),
        ('{"name": "f"}', '{"name": "f"}', []),
        ('{"name": "h", "arguments": {}}', '{"name": "h", "arguments": {}}', []),
        ("[" * 50_000, "[" * 50_000, []),
        ("[]", "[]", []),
        ("", "", []),
        (f"{NOW}; {NOW},\n{NOW}", "", ["now"] * 3),
        (f"{NOW}\nand so on", "and so on", ["now"]),
        ('{"type": "function", "function": {"name": "f", "arguments": "{}"}}', "", ["f"]),
        ('{"function": "f", "arguments": {}}', "", ["f"]),
        ("[weather(city='Bonn'), now()]", "", ["weather", "now"]),
        ('[weather("Bonn", 2)]', "", ["weather"]),
        ("[weather]", "[weather]", []),
        ("[now", "[now", []),
        ("[1] and [now()]", "[1] and [now()]", []),
        ("now()", "now()", []),
        # In a fence, alone or as the last of the answer; others are examples.
        (f"```json\n{NOW}\n```", "", ["now"]),
        (f"```\n{NOW}\n{NOW}\n```\nDone.", "Done.", ["now", "now"]),
        (f"```json\n{NOW}", "", ["now"]),
        (f"So:\n```json\n{NOW}\n```\n", "So:", ["now"]),
        (f"So:\n```json\n{NOW}\n```\nor not?", f"So:\n```json\n{NOW}\n```\nor not?", []),
        (f"So:\n\n{NOW}\n{NOW}", "So:", ["now", "now"]),
        (f"So: {NOW}", f"So: {NOW}", []),
        (f"So:\n{NOW} is how.", f"So:\n{NOW} is how.", []),
        ('```python\nprint("x")\n```', '```python\nprint("x")\n```', []),
    ],
)
@settings(max_examples=25)
@given(places=PLACES)
def test_bare_calls_are_found_however_the_text_is_cut(
    form: str, text: str, content: str, names: list[str], places: list[int]
) -> None:
    found = read(text, form, places)
    assert (found.content, [c.name for c in found.calls]) == (content, names)


@pytest.mark.parametrize(
    ("text", "thinking", "reasoning", "content", "names"),
    [
        ("<think>\nHm.\n\nSo.\n</think>\n\nYes.\n", False, "Hm.\n\nSo.", "Yes.\n", []),
        ("Hm.\n</think>\n\nYes.", True, "Hm.", "Yes.", []),
        ("\n\n</think>\n\nYes.", True, "", "Yes.", []),
        ("<think>a</think>\n<think>b</think>c", False, "ab", "c", []),
        ("<think>a", False, "a", "", []),
        ("a", True, "a", "", []),
        (f"<think>maybe {ONE}</think>No.", False, f"maybe {ONE}", "No.", []),
        (f"maybe {ONE}\n</think>\n{ONE}", True, f"maybe {ONE}", "", ["f"]),
        (f"</think>\n\n{NOW}", True, "", "", ["now"]),
        ("About <think> tags.", False, "", "About <think> tags.", []),
        ("<thin", False, "", "<thin", []),
    ],
)
@settings(max_examples=25)
@given(places=PLACES)
def test_reasoning_is_split_from_the_answer(
    text: str, thinking: bool, reasoning: str, content: str, names: list[str], places: list[int]
) -> None:
    found = read(text, HERMES, places, reasoning=THINK, thinking=thinking)
    assert (found.reasoning, found.content) == (reasoning, content)
    assert [c.name for c in found.calls] == names


@settings(max_examples=25)
@given(places=PLACES)
def test_tags_that_the_template_does_not_know_are_content_without_calls(places: list[int]) -> None:
    text = f"<think>\n{ONE}\n</think>\n{ONE}"
    found = read(text, HERMES, places)
    assert found.content == f"<think>\n{ONE}\n</think>"
    assert [c.name for c in found.calls] == ["f"]
    assert not found.reasoning


@settings(max_examples=25)
@given(places=PLACES)
def test_channels_say_what_is_reasoning(places: list[int]) -> None:
    text = (
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes."
    )
    for offer in (Offer({"f": {}}), None):
        found = read(text, "harmony", places, offer=offer)
        assert (found.reasoning, found.content, found.calls) == ("Hm.", "Yes.", [])


@settings(max_examples=25)
@given(places=PLACES)
def test_without_tools_nothing_is_a_call(places: list[int]) -> None:
    text = f"{NOW}\n{ONE}\n```json\n{NOW}\n```"
    found = read(text, HERMES, places, offer=None)
    assert (found.content, found.calls) == (text, [])


@settings(max_examples=25)
@given(places=PLACES)
def test_one_call_where_only_one_is_wanted(places: list[int]) -> None:
    for text in (f"a\n{ONE}\n{ONE}\nb", f"a\n<tool_call>[{NOW}, {NOW}]</tool_call>\nb"):
        found = read(text, HERMES, places, parallel=False)
        assert (found.content, len(found.calls)) == ("ab", 1)


_ALPHABET = '<>[]{}()|=",:`\\/' + "tool_calfnw pramet\n" + "'"
_SNIPPETS = st.sampled_from(
    sorted(
        {x for form in FORMS for x in form.literals()}
        | {"<think>", "</think>", ONE, NOW, '{"name": "f"', "\n{", "\n```", "f(", "now\n{}"}
    )
)
_ANSWERS = st.lists(st.text(_ALPHABET, max_size=8) | _SNIPPETS, max_size=12).map("".join)


@pytest.mark.parametrize("form", BY_NAME)
@settings(max_examples=40)
@given(text=_ANSWERS, places=PLACES, thinking=st.booleans(), known=st.booleans())
def test_a_stream_is_read_as_the_whole_is(
    form: str, text: str, places: list[int], thinking: bool, known: bool
) -> None:
    how: dict[str, Any] = {"reasoning": THINK if known else None, "thinking": thinking}
    whole = read(text, form, **how)
    assert read(text, form, places, **how) == whole
    assert read(text, form, list(range(len(text))), **how) == whole


@pytest.mark.parametrize(
    "text", ["<|start|>", "a<|start|>b", "<|start|><|start|>{", "a<|end|><|start|>"]
)
def test_a_message_that_begins_and_has_no_header_ends(text: str) -> None:
    """Cut off, or never meant: the marker is left out, the rest is content."""
    for places in ([], list(range(len(text)))):
        found = read(text, "harmony", places)
        assert "".join((found.content or "").split()) == re.sub(r"<\|\w+\|>", "", text)
        assert not found.calls


@given(text=_ANSWERS, places=PLACES)
def test_text_without_a_call_is_never_lost(text: str, places: list[int]) -> None:
    for form in (HERMES, PLAIN):
        found = read(text, form, places)
        if not found.calls:
            assert found.content == text


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("[1] A list of references", 0),
        ('{"colour": "red", "name": "f"}', 0),
        ('{"name": "Ann", "arguments": 3}', 0),
        ("[now] and then", 0),
        ("```python\nprint(1)", 0),
        ("a < b, <b>bold</b>", 0),
        ("and a line\n", 1),
        ("see <tool", 5),
    ],
)
def test_text_that_cannot_become_a_call_is_given_on_at_once(text: str, held: int) -> None:
    reader = AnswerReader(Style(BY_NAME[HERMES]), Offer({"f": {}, "now": {}}))
    assert reader.add(text).content == text[: len(text) - held]


HOSTILE = {
    "calls that fail at their end": '<tool_call>{"name": "f", "arguments": {"x": [',
    "tags in strings": '<tool_call>["</tool_call>',
    "openings": "<tool_call>",
    "brackets": "[",
    "quotes": '"',
    "escapes": "\\",
    "digits": "9",
    "letters": "a",
    "closing tags": "</parameter> x",
    "keys": "<arg_key>a</arg_key><arg_value>b</arg_value>",
    "line breaks": "\n",
    "fences": "\n```json\n{",
    "lines": '\n{"name": "f", "arguments": {',
    "half a tag": "<tool_cal",
    "arguments": "f(a=",
    "white space": " ",
}


@pytest.mark.parametrize("part", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_text_costs_what_its_length_does(part: str) -> None:
    """A second or less; where it is not linear, minutes."""
    for begin in ("", '<tool_call>{"name": "f", "arguments": {"x": "'):
        text = begin + part * (150_000 // len(part))
        began = time.process_time()
        whole = read(text, HERMES)
        streamed = read(text, HERMES, list(range(0, len(text), 4)))
        assert time.process_time() - began < 20
        assert streamed == whole
        assert len(whole.content) + sum(len(c.arguments) for c in whole.calls) <= len(text)


def test_a_call_is_at_most_as_long_as_what_is_held_for_it() -> None:
    for size, found in ((feed.MAX_HELD_CHARS - 100, 1), (feed.MAX_HELD_CHARS, 0)):
        text = f'<tool_call>{{"name": "f", "arguments": {{"x": "{"a" * size}"}}}}</tool_call>'
        assert len(read(text, HERMES).calls) == found
        assert len(read(text, HERMES, list(range(0, len(text), 99))).calls) == found
