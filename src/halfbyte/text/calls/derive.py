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

Render = Callable[[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]], str]

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
_TOOLS = [
    {
        "type": "function",
        "function": {"name": name, "description": "None", "parameters": _SCHEMA},
    }
    for name in (_FUNCTION, _SECOND)
]
_OFFER = Offer({name: _SCHEMA for name in (_FUNCTION, _SECOND)})
_Calls = list[tuple[str, dict[str, Any]]]
_CASES: tuple[_Calls, ...] = (
    [(_FUNCTION, _SIMPLE)],
    [(_FUNCTION, _SIMPLE), (_SECOND, {})],
    [(_FUNCTION, _HARD)],
)


@dataclass(frozen=True, slots=True)
class Profile:
    """How a model's calls and reasoning are read, and how earlier calls are shown to it."""

    style: Style
    replay: Replay


def profile_of(source: str, render: Render) -> Profile:
    """Of a template's source. `render` writes out messages with tools; its errors are answers."""
    reasoning = next((tags for tags in REASONING if tags.in_template(source)), None)
    named = [form for form in FORMS if form.in_template(source)]
    for replay in _replays():
        shown = _shown(_CASES[0], replay, render)
        if shown is None:
            continue
        forms = [form for form in (*named, PLAIN) if _reads(form, reasoning, shown, _CASES[0])]
        if not forms:
            made = _made(shown)
            forms = [made] if made and _reads(made, reasoning, shown, _CASES[0]) else []
        if forms:
            best = _best(forms, reasoning, replay, render)
            return Profile(Style(best, reasoning), replay)
    return Profile(Style(named[0] if named else PLAIN, reasoning), Replay())


def _replays() -> Iterator[Replay]:
    """How earlier calls may have to be put, the usual way first."""
    for ids, content, text in product(("any", "nine", "named"), ("", None), (False, True)):
        yield Replay(arguments_as_text=text, empty_content=content, ids=ids)


def _best(forms: list[Form], reasoning: Reasoning | None, replay: Replay, render: Render) -> Form:
    """The one that reads most of what the template shows; of equal ones the first."""
    if len(forms) == 1:
        return forms[0]
    scores = [0] * len(forms)
    for case in _CASES[1:]:
        shown = _shown(case, replay, render)
        for i, form in enumerate(forms):
            scores[i] += shown is not None and _reads(form, reasoning, shown, case)
    return forms[scores.index(max(scores))]


def _shown(calls: _Calls, replay: Replay, render: Render) -> str | None:
    """What the template writes for an answer that calls; None where it cannot."""
    answer = {
        "role": "assistant",
        "content": None,
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
        plain = render([_QUESTION, _ANSWER], _TOOLS)
        called = render(replay.applied([_QUESTION, answer]), _TOOLS)
    except HalfbyteError:
        return None
    before = _alike(plain, called)
    after = _alike(plain[before:][::-1], called[before:][::-1])
    return called[before : len(called) - after]


def _alike(a: str, b: str) -> int:
    """How many characters two texts begin with alike."""
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


def _reads(form: Form, reasoning: Reasoning | None, shown: str, expected: _Calls) -> bool:
    reader = AnswerReader(Style(form, reasoning), _OFFER)
    parts = (reader.add(shown), reader.finish())
    calls = [call for part in parts for call in part.calls]
    content = "".join(part.content for part in parts)
    return not content.strip() and [_parsed(call) for call in calls] == expected


def _parsed(call: Call) -> tuple[str, dict[str, Any]]:
    return call.name, json.loads(call.arguments)


def _made(shown: str) -> Form | None:
    """A form of what stands around the JSON of a simple call."""
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
