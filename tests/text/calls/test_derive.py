"""A template says which form a model writes: what it shows for calls, its reader reads back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfbyte.text.calls.call import Offer
from halfbyte.text.calls.derive import PROBE_TOOLS, Profile, Render, profile_of, show
from halfbyte.text.calls.reader import AnswerReader
from tests.support.conversations import function, template
from tests.text.calls.reading import cut

# Template -> form, and how it wants earlier calls.
FORMS = {
    "actions": ("cohere", "missing any"),
    "channels": ("harmony", "missing any"),
    "documents": ("phi-4, granite-3", "missing any"),
    "fenced_sections": ("deepseek", "none any text"),
    "generation": ("lfm2.5", "missing any"),
    "headers_json": ("llama", "missing any"),
    "ids_with_names": ("kimi-k2", "missing named"),
    "invoked": ("minimax-m2", "missing any"),
    "invoked_dsml": ("deepseek-dsml", "missing any"),
    "json_list": ("mistral", "missing nine"),
    "keys_and_values": ("hermes, qwen-coder, glm", "missing any"),
    "name_and_arguments": ("mistral", "missing any"),
    "parameters": ("hermes, qwen-coder, glm", "missing any"),
    "python_list": ("llama", "missing any"),
    "python_types": ("hermes, qwen-coder, glm", "missing any"),
    "quoting_tokens": ("gemma-4", "missing any"),
    "recipients": ("functionary-3.2", "missing any"),
    "role_tokens": ("phi-4, granite-3", "missing any"),
    "sections": ("deepseek", "missing any"),
    "tags_of_pieces": ("kimi-k3", "missing any"),
    "think_and_tags": ("hermes, qwen-coder, glm", "missing any"),
    "unknown_name_first": ("as the template shows", "missing any"),
    "unknown_tags": ("as the template shows", "missing any"),
    # Shows no calls.
    "chatml": ("json, python", "missing any"),
    "no_system": ("json, python", "missing any"),
}
ONE_CALL = {"headers_json"}  # refuses two at once
SCHEMA = {
    "text": {"type": "string"},
    "count": {"type": "integer"},
    "share": {"type": "number"},
    "yes": {"type": "boolean"},
    "list": {"type": "array", "items": {}},
    "object": {"type": "object"},
}
TOOLS = [function("read_it", **SCHEMA), function("f.2", **SCHEMA), function("now")]
OFFER = Offer({t["function"]["name"]: t["function"]["parameters"] for t in TOOLS})

_texts = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\u2028\u2029"))
_hard = st.sampled_from(
    [
        "a\nb",
        "\n",
        "</tool_call>",
        "</parameter>",
        'say "hi", then go',
        "it's",
        "C:\\new\\table",
        '{"name": "now"}',
        "<think>x</think>",
        "```json\n{}\n```",
        "null",
        "5",
        "[1]",
        "ü€😀",
        "a, b) c] d} e: f",
    ]
)
_strings = _texts | _hard
_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | _strings,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_strings, inner, max_size=3),
    max_leaves=6,
)
_arguments = st.fixed_dictionaries(
    {},
    optional={
        "text": _strings,
        "count": st.integers(-(10**6), 10**6),
        "share": st.floats(-1e6, 1e6, allow_nan=False).filter(lambda x: x == 0 or abs(x) > 1e-3),
        "yes": st.booleans(),
        "list": st.lists(_values, max_size=3),
        "object": st.dictionaries(_strings, _values, max_size=3),
    },
)
_calls = st.lists(
    st.tuples(st.sampled_from(["read_it", "f.2"]), _arguments) | st.just(("now", {})),
    min_size=1,
    max_size=3,
)


def _render(name: str, tools: Sequence[Mapping[str, Any]]) -> Render:
    def render(messages: Sequence[Mapping[str, Any]], begins: bool) -> str:
        chat = template(name)
        text = chat.render(messages, tools=tools, add_generation_prompt=begins, keep_none=True)
        return str(text)

    return render


def _profile(name: str) -> Profile:
    return profile_of(template(name).tool_source, _render(name, PROBE_TOOLS))


def _profiles() -> dict[str, Profile]:
    return {name: _profile(name) for name in FORMS}


@pytest.fixture(scope="module")
def profiles() -> dict[str, Profile]:
    return _profiles()


@pytest.mark.parametrize("name", FORMS)
def test_the_form_is_found_by_what_the_template_shows(
    name: str, profiles: dict[str, Profile]
) -> None:
    profile = profiles[name]
    replay = profile.replay
    wanted = f"{replay.empty_content} {replay.ids}" + " text" * replay.arguments_as_text
    assert (profile.style.form.name, wanted) == FORMS[name]


SHOWN = [name for name in FORMS if name not in ("chatml", "no_system")]


@pytest.mark.parametrize("name", SHOWN)
@settings(max_examples=25)
@given(calls=_calls, places=st.lists(st.integers(0, 600), max_size=6))
def test_what_a_template_shows_for_calls_is_what_is_read_back(
    name: str, calls: list[tuple[str, dict[str, Any]]], places: list[int]
) -> None:
    profile = _cached(name)
    calls = [(f, {k: _sayable(name, v) for k, v in a.items()}) for f, a in calls]
    if name in ONE_CALL:
        calls = calls[:1]
    shown = show(calls, profile.replay, _render(name, TOOLS), profile.style.reasoning)
    assert shown is not None
    reader = AnswerReader(profile.style, OFFER, thinking=shown.thinking)
    found = [reader.add(piece) for piece in cut(shown.text, places)]
    found.append(reader.finish())
    got = [(c.name, json.loads(c.arguments)) for part in found for c in part.calls]
    assert got == calls
    content = "".join(part.content for part in found).strip()
    assert shown.end.strip().endswith(content)
    assert not "".join(part.reasoning for part in found)


_known = dict[str, Profile]()


def _cached(name: str) -> Profile:
    if name not in _known:
        _known[name] = _profile(name)
    return _known[name]


def _sayable(name: str, value: Any) -> Any:
    """What the form has a way to write: some have none for a key that is no word."""
    if name != "quoting_tokens":
        return value
    if isinstance(value, list):
        return [_sayable(name, each) for each in value]
    if isinstance(value, dict):
        return {f"k{i}": _sayable(name, each) for i, each in enumerate(value.values())}
    return value
