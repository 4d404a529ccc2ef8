"""The forms in which models write calls and reasoning: one row a form, nothing but data.

A row says what the texts of a form are; `layouts` has the few ways to read what stands between
them. Which row a model follows is found by its chat template (`derive`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from halfbyte.text.calls.layouts import JsonCalls, Layout, MarkedCalls, NamedCalls, PythonCalls
from halfbyte.text.calls.values import Syntax


@dataclass(frozen=True, slots=True)
class Reasoning:
    """The tags around what a model thinks before it answers."""

    open: str
    close: str
    mark: str = ""  # what a template that knows them has in it; empty: the closing tag

    def in_template(self, source: str) -> bool:
        """Whether a template knows these tags."""
        return (self.mark or self.close) in source


@dataclass(frozen=True, slots=True)
class Channels:
    """Messages that each begin with a header, which says what they are (OpenAI's harmony)."""

    start: str = "<|start|>"
    channel: str = "<|channel|>"
    message: str = "<|message|>"
    constrain: str = "<|constrain|>"
    ends: tuple[str, ...] = ("<|end|>", "<|call|>", "<|return|>")
    recipient: str = "to="
    prefix: str = "functions."  # of a recipient that is a function on offer
    reasoning: str = "analysis"

    def literals(self) -> Iterable[str]:
        """The fixed texts."""
        return (self.start, self.channel, self.message, self.constrain, *self.ends)


@dataclass(frozen=True, slots=True)
class Tag:
    """What opens calls and what closes them (may be empty); layouts are tried in their order."""

    open: str
    close: str
    layouts: tuple[Layout, ...]


_JSON = JsonCalls()
_PYTHON = PythonCalls()
# Strings between single quotes as they are.
_RAW_PYTHON = PythonCalls(Syntax(raw=("'",), raw_depth=0))
_BARE = (_JSON, _PYTHON)  # small models forget the tags


@dataclass(frozen=True, slots=True)
class Form:
    """How calls are written.

    `bare` layouts may begin an answer without a tag. `dropped` texts are no content wherever they
    come, `dropped_first` at the beginning of an answer. `marks`: a template that teaches the form
    has one of these; where none are given, the tags that open.
    """

    name: str
    tags: tuple[Tag, ...] = ()
    bare: tuple[Layout, ...] = _BARE
    dropped: tuple[str, ...] = ()
    dropped_first: tuple[str, ...] = ()
    channels: Channels | None = None
    marks: tuple[str, ...] = ()

    def in_template(self, source: str) -> bool:
        """Whether a template may teach this form."""
        return any(mark in source for mark in self.marks or [tag.open for tag in self.tags])

    def literals(self) -> frozenset[str]:
        """Every fixed text of the form: those that are special tokens have to be in the text."""
        found = {*self.dropped, *self.dropped_first}
        for tag in self.tags:
            found |= {tag.open, tag.close}
        for layout in (*(x for tag in self.tags for x in tag.layouts), *self.bare):
            found.update(layout.literals())
        if self.channels is not None:
            found.update(self.channels.literals())
        return frozenset(found - {""})


def _marked(prefix: str = "") -> MarkedCalls:
    """`<invoke name="f"><parameter name="k">…`, with a prefix to the tags' names."""
    return MarkedCalls(
        name_open=f'<{prefix}invoke name="',
        name_end='"',
        head_end=">",
        key_open=f'<{prefix}parameter name="',
        key_end='"',
        key_head_end=">",
        value_end=f"</{prefix}parameter>",
        end=f"</{prefix}invoke>",
        kinds={' string="true"': True, ' string="false"': False},
    )


def _function(name_open: str) -> MarkedCalls:
    return MarkedCalls(
        name_open=name_open,
        name_end=">",
        key_open="<parameter=",
        key_end=">",
        value_end="</parameter>",
        end="</function>",
        lines=True,
    )


_KEYS_AND_VALUES = MarkedCalls(
    name_open="",
    name_end="",
    key_open="<arg_key>",
    key_end="</arg_key>",
    value_open="<arg_value>",
    value_end="</arg_value>",
    end="",
)
_ARGUMENTS = MarkedCalls(
    name_open='tool="',
    name_end='"',
    head_end="<|sep|>",
    key_open='<|open|>argument key="',
    key_end='"',
    key_head_end="<|sep|>",
    value_end="<|close|>argument<|sep|>",
    end="<|close|>call<|sep|>",
    kinds={' type="string"': True}
    | {f' type="{x}"': False for x in ("number", "boolean", "null", "object", "array")},
)

FORMS = (
    Form("harmony", bare=(), channels=Channels(), marks=("<|channel|>",)),
    Form(
        "kimi-k3",
        tags=(Tag("<|open|>call ", "", (_ARGUMENTS,)),),
        bare=(),
        dropped=(
            *(f"<|{x}|>{name}<|sep|>" for name in ("tools", "response") for x in ("open", "close")),
            "<|close|>message<|sep|>",
            "<|end_of_msg|>",
        ),
        marks=("<|open|>",),
    ),
    Form(
        "kimi-k2",
        tags=(
            Tag(
                "<|tool_call_begin|>",
                "<|tool_call_end|>",
                (
                    NamedCalls(
                        ("<|tool_call_argument_begin|>",), prefix="functions.", name_is_id=True
                    ),
                ),
            ),
        ),
        dropped=("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
    ),
    Form(
        "deepseek",
        tags=(
            Tag(
                "<｜tool▁call▁begin｜>",
                "<｜tool▁call▁end｜>",
                (
                    NamedCalls(("\n",), before="function<｜tool▁sep｜>"),
                    NamedCalls(("<｜tool▁sep｜>",)),
                ),
            ),
        ),
        dropped=("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
    ),
    Form(
        "deepseek-dsml",
        tags=(
            Tag(
                "<｜DSML｜function_calls>",
                "</｜DSML｜function_calls>",
                (_marked("｜DSML｜"),),
            ),
        ),
        marks=("｜DSML｜",),
    ),
    Form(
        "step",
        tags=(
            Tag(
                "<｜tool_call_begin｜>function<｜tool_sep｜>",
                "<｜tool_call_end｜>",
                (_marked("steptml:"),),
            ),
        ),
        dropped=("<｜tool_calls_begin｜>", "<｜tool_calls_end｜>"),
        marks=("<｜tool_call_begin｜>",),
    ),
    Form(
        "mistral",
        tags=(Tag("[TOOL_CALLS]", "", (_JSON, NamedCalls(("[ARGS]", ""), id_mark="[CALL_ID]"))),),
    ),
    Form(
        "gemma-4",
        tags=(
            Tag(
                "<|tool_call>",
                "<tool_call|>",
                (
                    NamedCalls(
                        ("",),
                        before="call:",
                        syntax=Syntax(('<|"|>', '"'), raw=('<|"|>',), bare_keys=True),
                    ),
                ),
            ),
        ),
    ),
    Form(
        "function-gemma",
        tags=(
            Tag(
                "<start_function_call>",
                "<end_function_call>",
                (
                    NamedCalls(
                        ("",),
                        before="call:",
                        syntax=Syntax(("<escape>", '"'), raw=("<escape>",), bare_keys=True),
                    ),
                ),
            ),
        ),
    ),
    Form(
        "cohere",
        tags=(Tag("<|START_ACTION|>", "<|END_ACTION|>", (JsonCalls(("tool_name", "name")),)),),
        dropped=("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
    ),
    Form("lfm2", tags=(Tag("<|tool_call_start|>", "<|tool_call_end|>", (_PYTHON, _JSON)),)),
    Form("lfm2.5", tags=(Tag("<|tool_call_start|>", "<|tool_call_end|>", (_RAW_PYTHON, _JSON)),)),
    Form("phi-4, granite-3", tags=(Tag("<|tool_call|>", "<|/tool_call|>", (_JSON,)),)),
    Form("nemotron", tags=(Tag("<TOOLCALL>", "</TOOLCALL>", (_JSON,)),)),
    Form("minimax-m2", tags=(Tag("<minimax:tool_call>", "</minimax:tool_call>", (_marked(),)),)),
    Form(
        "function_calls",
        tags=(Tag("<function_calls>", "</function_calls>", (_marked(), _PYTHON, _JSON)),),
    ),
    Form("seed", tags=(Tag("<seed:tool_call>", "</seed:tool_call>", (_function("<function="),)),)),
    Form("jamba, minimax-m1", tags=(Tag("<tool_calls>", "</tool_calls>", (_JSON,)),)),
    Form(
        "apertus",
        tags=(Tag("<|tools_prefix|>", "<|tools_suffix|>", (JsonCalls(name_is_key=True),)),),
    ),
    Form("internlm", tags=(Tag("<|action_start|><|plugin|>", "<|action_end|>", (_JSON,)),)),
    Form(
        "functionary-3.2",
        tags=(Tag(">>>", "", (NamedCalls(("\n",)),)),),
        bare=(NamedCalls(("\n",)),),
        dropped=(">>>all\n",),
        dropped_first=("all\n",),
    ),
    Form(
        "functionary-2",
        tags=(Tag("<|recipient|>", "", (NamedCalls(("\n<|content|>", "<|content|>")),)),),
        bare=(NamedCalls(("\n<|content|>", "<|content|>")),),
        dropped=("<|from|>assistant\n", "<|recipient|>all\n<|content|>", "<|stop|>"),
        dropped_first=("all\n<|content|>",),
    ),
    Form(
        "function_call",
        tags=(
            Tag("<function_call>", "</function_call>", (_JSON,)),
            Tag("<functioncall>", "</functioncall>", (_JSON,)),
        ),
    ),
    Form("functools", tags=(Tag("functools", "", (_JSON,)),)),
    Form(
        "hermes, qwen-coder, glm",
        tags=(
            Tag("<tool_call>", "</tool_call>", (_JSON, _function("<function="), _KEYS_AND_VALUES)),
            Tag("<function=", "", (_function(""), NamedCalls((">",), after="</function>"))),
        ),
    ),
    Form(
        "llama",
        tags=(
            Tag("<|python_tag|>", "", (_JSON, _PYTHON)),
            Tag("<|python_start|>", "<|python_end|>", (_PYTHON, _JSON)),
        ),
    ),
    Form("glm-4", bare=(NamedCalls(("\n",)), _JSON), marks=("<|observation|>",)),
    Form("json, python"),
)
# Of a template that teaches nothing; and of an answer that must be one call in JSON.
PLAIN = FORMS[-1]
FORCED = Form("forced", bare=(_JSON,))

REASONING = (
    Reasoning("<think>", "</think>"),
    Reasoning("<|START_THINKING|>", "<|END_THINKING|>"),
    Reasoning("[THINK]", "[/THINK]"),
    Reasoning("<seed:think>", "</seed:think>"),
    Reasoning("<|inner_prefix|>", "<|inner_suffix|>"),
    Reasoning("<|channel>thought\n", "<channel|>"),
    Reasoning("<|open|>think<|sep|>", "<|close|>think<|sep|>", mark="<|open|>"),
    Reasoning("<thinking>", "</thinking>"),
    Reasoning("<thought>", "</thought>"),
    Reasoning("<reasoning>", "</reasoning>"),
)
