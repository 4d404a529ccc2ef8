"""Which form a model writes: found by its chat template, not by its name.

A template shows the calls of earlier answers in the form the model was trained on. So one is
rendered, and the form is the one whose reader reads the same call back from what the template
made of it. Where no row of the table does, the row is made from the text around the call.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from halfbyte.errors import HalfbyteError
from halfbyte.text.calls.call import Call, Offer
from halfbyte.text.calls.forms import FORMS, PLAIN, REASONING, Form, Reasoning, Tag
from halfbyte.text.calls.history import Replay
from halfbyte.text.calls.layouts import JsonCalls, Layout, NamedCalls
from halfbyte.text.calls.reader import AnswerReader, Style

# Writes out messages, with the tools of `PROBE_TOOLS`; True: up to where an answer begins.
Render = Callable[[Sequence[Mapping[str, Any]], bool], str]

_QUESTION = {"role": "user", "content": "What is asked"}
_ANSWER = {"role": "assistant", "content": "zq"}  # begins as no form's tag does
_FUNCTION, _SECOND = "qx_read", "qx_now"
_SIMPLE = {"qk": "qv"}
# What tells forms apart that write simple calls alike.
_HARD = {
    "text": 'it\'s "so"\nC:\\new',
    "number": 3,
    "yes": True,
    "list": [1, "b"],
    "object": {"k": "v"},
}
_SCHEMA = {
    "type": "object",
    "properties": {
        "qk": {"type": "string"},
        "text": {"type": "string"},
        "number": {"type": "integer"},
        "yes": {"type": "boolean"},
        "list": {"type": "array"},
        "object": {"type": "object"},
    },
}
PROBE_TOOLS = [
    {
        "type": "function",
        "function": {"name": name, "description": "None", "parameters": _SCHEMA},
    }
    for name in (_FUNCTION, _SECOND)
]
_OFFER = Offer({name: _SCHEMA for name in (_FUNCTION, _SECOND)})
Calls = list[tuple[str, dict[str, Any]]]
_CASES: tuple[Calls, ...] = (
    [(_FUNCTION, _SIMPLE)],
    [(_FUNCTION, _SIMPLE), (_SECOND, {})],
    [(_FUNCTION, _HARD)],
)


@dataclass(frozen=True, slots=True)
class Profile:
    """How a model's calls and reasoning are read, and how earlier calls are shown to it."""

    style: Style
    replay: Replay


@dataclass(frozen=True, slots=True)
class Shown:
    """What a template writes for an answer: after the prompt's end, and how any answer ends."""

    text: str
    end: str
    thinking: bool = False  # the prompt has opened the reasoning


def profile_of(source: str, render: Render) -> Profile:
    """Of a template's source. `render` writes out messages with tools; its errors are answers."""
    reasoning = reasoning_of(source)
    named = [form for form in FORMS if form.in_template(source)]
    usual: Replay | None = None  # the first that the template renders at all
    for replay in _replays():
        shown = show(_CASES[0], replay, render, reasoning)
        if shown is None:
            continue
        usual = usual or replay
        forms = [form for form in (*named, PLAIN) if _reads(form, reasoning, shown, _CASES[0])]
        if not forms:
            made = _made(shown)
            forms = [made] if made and _reads(made, reasoning, shown, _CASES[0]) else []
        if forms:
            best = _best(forms, reasoning, replay, render)
            return Profile(Style(best, reasoning), replay)
    fallback = usual or Replay(empty_content="empty")
    return Profile(Style(named[0] if named else PLAIN, reasoning), fallback)


def reasoning_of(source: str) -> Reasoning | None:
    """The tags that a template knows."""
    return next((tags for tags in REASONING if tags.in_template(source)), None)


def plain_form(source: str) -> Form:
    """Of answers that cannot call: some forms put content between texts of their own, too."""
    named = (form for form in FORMS if form.in_template(source))
    return next((f for f in named if f.channels or f.dropped or f.dropped_first), PLAIN)


def show(calls: Calls, replay: Replay, render: Render, reasoning: Reasoning | None) -> Shown | None:
    """What the template writes for an answer that makes these calls; None where it cannot."""
    answer = {
        "role": "assistant",
        "tool_calls": [
            {
                "id": f"call_{i}f00dfeed0123456789abcde",
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            }
            for i, (name, arguments) in enumerate(calls)
        ],
    }
    try:
        prompt = render([_QUESTION], True)
        plain = render([_QUESTION, _ANSWER], False)
        called = render(replay.applied([_QUESTION, answer]), False)
    except HalfbyteError:
        return None
    before = _alike(plain, called)
    if called.startswith(prompt):
        before = min(before, len(prompt))
    tag = called.rfind("<", 0, before)
    if tag >= 0 and ">" not in called[tag:before]:  # both go on with a tag that begins alike
        before = tag
    thinking = reasoning is not None and is_open(called[:before], reasoning)
    return Shown(called[before:], plain[before:].removeprefix(str(_ANSWER["content"])), thinking)


def is_open(prompt: str, tags: Reasoning) -> bool:
    """Whether a prompt ends where the model is to think."""
    return prompt.rstrip().endswith(tags.open.rstrip())


def _alike(a: str, b: str) -> int:
    """How many characters two texts begin with alike."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))


def _replays() -> Iterator[Replay]:
    """How earlier calls may have to be put, the usual way first."""
    contents = ("missing", "empty", "none")
    for ids, content, text in product(("any", "nine", "named"), contents, (False, True)):
        yield Replay(arguments_as_text=text, empty_content=content, ids=ids)


def _best(forms: list[Form], reasoning: Reasoning | None, replay: Replay, render: Render) -> Form:
    """The form that reads most of the calls that the template shows; of equal ones the first."""
    if len(forms) == 1:
        return forms[0]
    scores = [0] * len(forms)
    for case in _CASES[1:]:
        shown = show(case, replay, render, reasoning)
        for i, form in enumerate(forms):
            scores[i] += shown is not None and _reads(form, reasoning, shown, case)
    return forms[scores.index(max(scores))]


def _reads(form: Form, reasoning: Reasoning | None, shown: Shown, expected: Calls) -> bool:
    reader = AnswerReader(Style(form, reasoning), _OFFER, thinking=shown.thinking)
    parts = (reader.add(shown.text), reader.finish())
    calls = [call for part in parts for call in part.calls]
    content = "".join(part.content for part in parts).strip()
    return shown.end.strip().endswith(content) and [_parsed(call) for call in calls] == expected


def _parsed(call: Call) -> tuple[str, dict[str, Any]]:
    return call.name, json.loads(call.arguments)


def _made(answer: Shown) -> Form | None:
    """A form of what stands around the JSON of a simple call."""
    shown = answer.text[: len(answer.text) - _alike(answer.text[::-1], answer.end[::-1])]
    start = next((i for i in range(len(shown)) if shown[i] in "{["), len(shown))
    found = _json_at(shown[start:])
    if found is None:
        return None
    values, size = found
    before, after = shown[:start].strip(), shown[start + size :].strip()
    single = values[0] if isinstance(values, list) and values else values
    layout: Layout
    if single == _SIMPLE and _FUNCTION in before:
        open_tag, _, between = shown[:start].partition(_FUNCTION)
        before, layout = open_tag.strip(), NamedCalls((between,))
    else:
        layout = _keys_of(single)
    if not before:
        return Form("as the template shows", bare=(layout,))
    return Form("as the template shows", tags=(Tag(before, after, (layout,)),))


def _keys_of(found: object) -> JsonCalls:
    """Which keys of an object have the name and the arguments."""
    if not isinstance(found, dict):
        return JsonCalls()
    names = [key for key, x in found.items() if x == _FUNCTION]
    arguments = [key for key, x in found.items() if x in (_SIMPLE, json.dumps(_SIMPLE))]
    return JsonCalls(tuple(names), tuple(arguments)) if names and arguments else JsonCalls()


def _json_at(text: str) -> tuple[Any, int] | None:
    """The JSON value that a text begins with, and its length."""
    try:
        return json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None
