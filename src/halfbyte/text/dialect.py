"""How one model's conversations are written and read: its templates, its tokenizer, its forms."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from halfbyte.errors import ArgumentError
from halfbyte.text.calls.call import Offer
from halfbyte.text.calls.derive import (
    PROBE_TOOLS,
    Profile,
    is_open,
    plain_form,
    profile_of,
    reasoning_of,
)
from halfbyte.text.calls.forms import FORCED, Reasoning
from halfbyte.text.calls.reader import AnswerReader, Style
from halfbyte.text.chat import ChatTemplate, Message
from halfbyte.text.codec import TextCodec

Tools = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Written:
    """A conversation as its template wrote it. `thinks`: the answer begins inside reasoning."""

    text: str
    thinks: bool = False
    mark: str = ""  # in `marked`, inside what looks like control tokens and is text
    marked: str = ""
    tokens: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an answer may hold. `tools` None: no calls; `forced`: nothing but one, in JSON."""

    tools: Tools | None = None
    forced: bool = False
    parallel: bool = True


@dataclass(slots=True)
class Dialect:
    """Of one model; for any thread."""

    template: ChatTemplate
    codec: TextCodec
    _profile: Profile | None = field(default=None, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def write(
        self,
        messages: Sequence[Message],
        *,
        tools: Tools | None = None,
        variables: Mapping[str, Any] | None = None,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool = False,
        special_tokens: bool = False,
    ) -> Written:
        """A conversation's prompt; see `ChatTemplate.render`.

        Control tokens that a message spells are text, unless `special_tokens`.
        """
        put: list[Message] = list(messages)
        keep_none = False
        if any(isinstance(m, Mapping) and m.get("tool_calls") for m in messages):
            put = list(self.profile.replay.applied(messages))
            keep_none = True
        source = self._source(tools)
        mark, tokens = "", frozenset[str]()
        if not special_tokens:
            tokens = self.codec.controls.of_template(source)
            marked = self._marked([put, list(tools or ())], tokens, reasoning_of(source))
            (put, offered), mark = marked
            tools = None if tools is None else offered
        text = self.template.render(
            put,
            tools=tools,
            variables=variables,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            keep_none=keep_none,
        )
        thinks = self._thinks(text, source, continues=continue_final_message)
        return Written(text.replace(mark, "") if mark else text, thinks, mark, text, tokens)

    def ids(self, written: Written) -> list[int]:
        """Token ids of a prompt."""
        if not written.mark:
            return self.codec.encode(written.text, as_chat=True)
        return self.codec.encode_marked(written.marked, written.mark, written.tokens)

    @property
    def profile(self) -> Profile:
        """How calls are read and shown, found when it is first needed."""
        with self._lock:
            if self._profile is None:
                self._profile = profile_of(self.template.tool_source, self._probe)
            return self._profile

    def style(self, wanted: Wanted) -> Style:
        """How an answer is to be read."""
        if wanted.forced:
            form = FORCED
        elif wanted.tools is not None:
            form = self.profile.style.form
        else:
            form = plain_form(self.template.source)
        return Style(form, reasoning_of(self._source(wanted.tools)))

    def reader(self, wanted: Wanted, *, thinks: bool) -> AnswerReader | None:
        """Of one answer; None where all of it is content."""
        style = self.style(wanted)
        offer = None if wanted.tools is None else _offer(wanted.tools)
        if offer is None and style == Style():
            return None
        return AnswerReader(style, offer, thinking=thinks, parallel=wanted.parallel)

    def shown_ids(self, style: Style) -> tuple[int, ...]:
        """Control tokens whose names have to be in the text, for the reader to see them."""
        return self.codec.controls.special(style.literals())

    def _source(self, tools: Tools | None) -> str:
        return self.template.source if tools is None else self.template.tool_source

    def _probe(self, messages: Sequence[Message], begins: bool) -> str:
        return self.template.render(
            messages, tools=PROBE_TOOLS, add_generation_prompt=begins, keep_none=True
        )

    def _thinks(self, text: str, source: str, *, continues: bool) -> bool:
        tags = reasoning_of(source)
        if tags is None:
            return False
        if not continues:
            return is_open(text, tags)
        return text.rfind(tags.open.strip()) > text.rfind(tags.close.strip())

    def _marked(
        self, values: list[list[Any]], tokens: frozenset[str], reasoning: Reasoning | None
    ) -> tuple[list[list[Any]], str]:
        """Messages and tools with marks. What a model thought is tagged in its own answers."""
        special = frozenset(self.codec.controls.special_texts)
        own = frozenset() if reasoning is None else frozenset((reasoning.open, reasoning.close))
        of_answers = tokens - (own - special)

        def which(value: Any) -> frozenset[str]:
            answers = isinstance(value, Mapping) and value.get("role") == "assistant"
            return of_answers if answers else tokens

        sizes = [len(each) for each in values]
        try:
            found = self.codec.controls.marked([x for each in values for x in each], which)
        except RecursionError as error:
            raise ArgumentError(
                "messages", got="a value nested too deep", expected="JSON", fix="nest it less"
            ) from error
        return [found.values[: sizes[0]], found.values[sizes[0] :]], found.mark


def _offer(tools: Tools) -> Offer:
    functions = (tool.get("function", tool) for tool in tools)
    return Offer({f["name"]: f.get("parameters") or {} for f in functions})
