"""Every form of calls, as models write it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings

from tests.text.calls.reading import BY_NAME, HERMES, PLACES, calls, read

ONE = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'
NOW = '{"name": "now", "arguments": {}}'
BONN = {"city": "Bonn"}

# Form, what a model writes in it, content, calls.
WRITTEN: list[tuple[str, str, str, list[tuple[str, Any]]]] = [
    (HERMES, f"```xml\n{ONE}\n```", "", [("f", {"x": 1})]),
    (HERMES, f"<tool_call>\n```json\n{NOW}\n```\n</tool_call>", "", [("now", {})]),
    (HERMES, f"<tool_call>\n{NOW}\n{NOW}\n</tool_call>", "", [("now", {}), ("now", {})]),
    (HERMES, f"<tool_call>[{NOW}, {NOW}]</tool_call>", "", [("now", {}), ("now", {})]),
    (HERMES, '<tool_call>{"name": "now"}</tool_call>', "", [("now", {})]),
    (HERMES, '<tool_call>{"name": "now", "arguments": null}</tool_call>', "", [("now", {})]),
    (HERMES, '<tool_call>{"name": "now", "arguments": ""}</tool_call>', "", [("now", {})]),
    (
        HERMES,
        '<tool_call>{"name": "weather", "arguments": "{\\"city\\": \\"Bonn\\"}"}</tool_call>',
        "",
        [("weather", BONN)],
    ),
    (
        HERMES,
        '<tool_call>{"name": "write_file", "arguments": '
        '{"text": "a\n\tb </tool_call> c"}}</tool_call>',
        "",
        [("write_file", {"text": "a\n\tb </tool_call> c"})],
    ),
    (
        HERMES,
        '<tool_call>{"name": "write_file", "arguments": {"text": "print("hi")"}}</tool_call>',
        "",
        [("write_file", {"text": 'print("hi")'})],
    ),
    (
        HERMES,
        "<tool_call>{'name': 'f', 'arguments': {'x': True}}</tool_call>",
        "",
        [("f", {"x": True})],
    ),
    (
        HERMES,
        "<tool_call>\n<function=weather>\n<parameter=city>\nBonn\n</parameter>\n<parameter=days>\n2\n"
        "</parameter>\n</function>\n</tool_call>",
        "",
        [("weather", {"city": "Bonn", "days": 2})],
    ),
    (
        HERMES,
        "I write.\n<function=write_file>\n<parameter=text>\nsee </parameter> here\n"
        "</parameter>\n</function>",
        "I write.",
        [("write_file", {"text": "see </parameter> here"})],
    ),
    (HERMES, '<function=weather>{"city": "Bonn"}</function>', "", [("weather", BONN)]),
    (
        HERMES,
        "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Bonn</arg_value>\n</tool_call>",
        "",
        [("weather", BONN)],
    ),
    (HERMES, "<tool_call>now</tool_call>", "", [("now", {})]),
    (HERMES, "<tool_call>hello</tool_call>", "<tool_call>hello</tool_call>", []),
    ("llama", '<|python_tag|>{"name": "now", "parameters": {}}', "", [("now", {})]),
    ("llama", '<|python_tag|>search.call(query="x")', "", [("search", {"query": "x"})]),
    (
        "llama",
        "<|python_start|>[f(x=[1, {'a': None}])]<|python_end|>",
        "",
        [("f", {"x": [1, {"a": None}]})],
    ),
    ("mistral", f"[TOOL_CALLS] [{NOW}]", "", [("now", {})]),
    (
        "mistral",
        'Ok.[TOOL_CALLS]now[ARGS]{}[TOOL_CALLS]f{"x": 2}',
        "Ok.",
        [("now", {}), ("f", {"x": 2})],
    ),
    ("mistral", "[TOOL_CALLS] of mine", "[TOOL_CALLS] of mine", []),
    (
        "deepseek",
        "Ok.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n"
        '{"city": "Bonn"}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n'
        "```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "Ok.",
        [("weather", BONN), ("now", {})],
    ),
    (
        "deepseek",
        '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{"x": 1}'
        "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "",
        [("f", {"x": 1})],
    ),
    (
        "deepseek-dsml",
        '<｜DSML｜function_calls>\n<｜DSML｜invoke name="f">\n'
        '<｜DSML｜parameter name="a" string="true">5</｜DSML｜parameter>\n'
        '<｜DSML｜parameter name="b" string="false">5</｜DSML｜parameter>\n'
        "</｜DSML｜invoke>\n</｜DSML｜function_calls>",
        "",
        [("f", {"a": "5", "b": 5})],
    ),
    (
        "step",
        "<｜tool_calls_begin｜><｜tool_call_begin｜>function<｜tool_sep｜>"
        '<steptml:invoke name="weather"><steptml:parameter name="city">Bonn</steptml:parameter>'
        "</steptml:invoke><｜tool_call_end｜><｜tool_calls_end｜>",
        "",
        [("weather", BONN)],
    ),
    (
        "kimi-k3",
        "<|open|>response<|sep|>Ok.<|close|>response<|sep|><|open|>tools<|sep|>"
        '<|open|>call tool="f" index="1"<|sep|><|open|>argument key="x" type="number"<|sep|>1'
        "<|close|>argument<|sep|>"
        "<|close|>call<|sep|><|close|>tools<|sep|><|close|>message<|sep|>",
        "Ok.",
        [("f", {"x": 1})],
    ),
    (
        "kimi-k2",
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0 <|tool_call_argument_begin|>"
        '{"x": 1}<|tool_call_end|><|tool_calls_section_end|>',
        "",
        [("f", {"x": 1})],
    ),
    (
        "gemma-4",
        '<|tool_call>call:f{x:<|"|>it"s<|"|>,y:[1,true]}<tool_call|>',
        "",
        [("f", {"x": 'it"s', "y": [1, True]})],
    ),
    (
        "function-gemma",
        "<start_function_call>call:f{x:<escape>a<escape>,n:1}<end_function_call>",
        "",
        [("f", {"x": "a", "n": 1})],
    ),
    (
        "cohere",
        '<|START_ACTION|>[\n{"tool_call_id": "0", "tool_name": "f", '
        '"parameters": {"x": 1}}\n]<|END_ACTION|>',
        "",
        [("f", {"x": 1})],
    ),
    (
        "lfm2",
        '<|tool_call_start|>[weather(city="Bonn")]<|tool_call_end|>Ok.',
        "Ok.",
        [("weather", BONN)],
    ),
    (
        "lfm2.5",
        "<|tool_call_start|>[weather(city='it's')]<|tool_call_end|>",
        "",
        [("weather", {"city": "it's"})],
    ),
    ("phi-4, granite-3", f"<|tool_call|>[{NOW}]<|/tool_call|>", "", [("now", {})]),
    ("phi-4, granite-3", f"<|tool_call|>[{NOW}]", "", [("now", {})]),
    ("nemotron", f"<TOOLCALL>[{NOW}]</TOOLCALL>", "", [("now", {})]),
    (
        "minimax-m2",
        '<minimax:tool_call>\n<invoke name="weather">\n<parameter name="city">Bonn</parameter>\n'
        '</invoke>\n<invoke name="now">\n</invoke>\n</minimax:tool_call>',
        "",
        [("weather", BONN), ("now", {})],
    ),
    (
        "function_calls",
        "<function_calls>\nf(x=1)\nnow()\n</function_calls>",
        "",
        [("f", {"x": 1}), ("now", {})],
    ),
    (
        "seed",
        "<seed:tool_call>\n<function=weather>\n<parameter=city>Bonn</parameter>\n</function>\n</seed:tool_call>",
        "",
        [("weather", BONN)],
    ),
    (
        "jamba, minimax-m1",
        f"<tool_calls>\n{NOW}\n{NOW}\n</tool_calls>",
        "",
        [("now", {}), ("now", {})],
    ),
    (
        "apertus",
        '<|tools_prefix|>[{"f": {"x": 1}}, {"now": {}}]<|tools_suffix|>',
        "",
        [("f", {"x": 1}), ("now", {})],
    ),
    ("internlm", f"<|action_start|><|plugin|>\n{NOW}<|action_end|>", "", [("now", {})]),
    ("functionary-3.2", 'all\nI look.>>>weather\n{"city": "Bonn"}', "I look.", [("weather", BONN)]),
    (
        "functionary-3.2",
        'weather\n{"city": "Bonn"}>>>now\n{}',
        "",
        [("weather", BONN), ("now", {})],
    ),
    (
        "functionary-2",
        "all\n<|content|>I look.\n<|from|>assistant\n<|recipient|>weather\n<|content|>"
        '{"city": "Bonn"}',
        "I look.",
        [("weather", BONN)],
    ),
    ("function_call", f"<function_call> {NOW}", "", [("now", {})]),
    ("functools", f"functools[{NOW}]", "", [("now", {})]),
    ("functools", "import functools\n", "import functools\n", []),
    ("glm-4", 'weather\n{"city": "Bonn"}', "", [("weather", BONN)]),
    ("glm-4", "weather\nis fine", "weather\nis fine", []),
    (
        "harmony",
        "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant<|channel|>commentary "
        'to=functions.weather <|constrain|>json<|message|>{"city": "Bonn"}<|call|>',
        "I look.",
        [("weather", BONN)],
    ),
    (
        "harmony",
        ' to=functions.f<|channel|>commentary json<|message|>{"x": 1}<|call|>',
        "",
        [("f", {"x": 1})],
    ),
    ("harmony", "<|channel|>final<|message|>Yes.\n<|return|>", "Yes.\n", []),
    ("harmony", "plain text", "plain text", []),
    (
        "harmony",
        "<|channel|>commentary to=functions.f<|message|>no object<|end|>"
        "<|start|>assistant<|channel|>final<|message|>So.",
        "no object\n\nSo.",
        [],
    ),
]


@pytest.mark.parametrize(("form", "text", "content", "expected"), WRITTEN)
@settings(max_examples=25)
@given(places=PLACES)
def test_every_form_is_read_as_models_write_it(
    form: str, text: str, content: str, expected: list[tuple[str, Any]], places: list[int]
) -> None:
    found = read(text, form, places)
    assert (found.content, calls(found)) == (content, expected)


def test_every_form_is_among_them() -> None:
    assert {form for form, *_ in WRITTEN} | {"json, python"} == set(BY_NAME)


def test_ids_that_a_form_has_the_model_write_are_kept() -> None:
    named = "<|tool_call_begin|>functions.f:3<|tool_call_argument_begin|>{}<|tool_call_end|>"
    assert [c.id for c in read(named, "kimi-k2").calls] == ["functions.f:3"]
    marked = "[TOOL_CALLS]f[CALL_ID]abc123def[ARGS]{}"
    assert [c.id for c in read(marked, "mistral").calls] == ["abc123def"]
