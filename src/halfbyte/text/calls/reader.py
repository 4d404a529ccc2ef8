"""Reads a growing answer: what is reasoning, what is content, and the calls in it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from halfbyte.text.calls.call import Call, Offer
from halfbyte.text.calls.channels import read_channels
from halfbyte.text.calls.feed import Mismatch, Steps, TextFeed
from halfbyte.text.calls.forms import PLAIN, REASONING, Form, Reasoning, Tag
from halfbyte.text.calls.layouts import Layout, close_fence, open_fence

_BREAKS = re.compile(r"\n*")
_BETWEEN = re.compile(r"[\s,;]*")
_CLOSERS = re.compile(r"[\s,;\]})`]*")  # one bracket too many is a common slip
_LINES = ("\n{", "\n[", "\n```")  # where a call without tags may begin


@dataclass(slots=True)
class Found:
    """What became certain: texts to add, and whole calls."""

    content: str = ""
    reasoning: str = ""
    calls: list[Call] = field(default_factory=list)

    def __add__(self, other: Found) -> Found:
        return Found(
            self.content + other.content,
            self.reasoning + other.reasoning,
            self.calls + other.calls,
        )


@dataclass(frozen=True, slots=True)
class Style:
    """How one model writes: its form of calls, and the tags around its reasoning."""

    form: Form = PLAIN
    reasoning: Reasoning | None = None

    def literals(self) -> frozenset[str]:
        """Texts that must reach the reader, though they may be special tokens."""
        tags = () if self.reasoning is None else (self.reasoning.open, self.reasoning.close)
        return self.form.literals() | frozenset(tags)


class AnswerReader:
    """One answer, read piece by piece; the result is the same however it was cut."""

    def __init__(
        self,
        style: Style,
        offer: Offer | None,
        *,
        thinking: bool = False,
        parallel: bool = True,
    ) -> None:
        """`offer` None: there are no calls to find. `thinking`: the prompt has opened it."""
        self._form = style.form
        self._reasoning = style.reasoning
        self._offer = offer
        self._thinking = thinking
        self._parallel = parallel
        self._feed = TextFeed()
        self._found = Found()
        self._breaks = list[str]()  # at the end of the content: a call's, if one follows
        self._after_call = False
        self._thought_breaks = ""
        self._any_call = False
        self._stray = ""  # a closing tag that may still come
        self._steps = self._read()
        next(self._steps, None)

    def add(self, text: str) -> Found:
        """What the text makes certain."""
        self._feed.add(text)
        return self._take()

    def finish(self) -> Found:
        """The rest, once the answer has ended."""
        self._feed.end()
        return self._take()

    def _take(self) -> Found:
        next(self._steps, None)
        found, self._found = self._found, Found()
        return found

    # What the coroutines find

    def add_content(self, text: str) -> None:
        """Text for the user; line breaks at its end wait for what follows."""
        kept = text.rstrip("\n")
        if kept:
            self._found.content += "".join(self._breaks) + kept
            self._breaks.clear()
            self._after_call = False
        if len(kept) < len(text):
            self._breaks.append(text[len(kept) :])

    def add_reasoning(self, text: str) -> None:
        """What the model thinks, without the line breaks around it."""
        kept = text.rstrip("\n")
        if kept:
            self._found.reasoning += self._thought_breaks + kept
            self._thought_breaks = ""
        self._thought_breaks += text[len(kept) :]

    def add_calls(self, calls: list[Call]) -> None:
        """Whole calls, as far as there may be several."""
        self._found.calls += calls if self._parallel else calls[: not self._any_call]
        self._any_call = self._any_call or bool(calls)
        self._breaks.clear()

    # Coroutines

    def _read(self) -> Steps[None]:
        if self._form.channels is not None:
            yield from read_channels(self._feed, self._form.channels, self._offer, self)
        else:
            yield from self._think()
            yield from self._answer()
        if not self._after_call:
            self._found.content += "".join(self._breaks)

    def _think(self) -> Steps[None]:
        """Reasoning at the beginning; several parts may follow each other."""
        # Tags that the template does not know are content, but no call is read in them.
        known = self._reasoning
        tags = known or REASONING[0]
        inside = self._thinking and known is not None
        while inside or (yield from self._attempt(self._opening(tags.open))) is not None:
            if known is None:
                self.add_content(tags.open)
            yield from self._thoughts(tags, hidden=known is not None)
            inside = False

    def _opening(self, tag: str) -> Steps[list[Call]]:
        yield from self._feed.space()
        yield from self._feed.expect(tag)
        return []

    def _thoughts(self, tags: Reasoning, *, hidden: bool) -> Steps[None]:
        add = self.add_reasoning if hidden else self.add_content
        if hidden:
            yield from self._feed.run(_BREAKS)
        while True:
            text, closed = yield from self._feed.upto((tags.close,))
            if not text:
                break
            add(text)
        if not hidden:
            add(closed)
        elif closed:
            yield from self._feed.run(_BREAKS)

    def _answer(self) -> Steps[None]:
        for text in self._form.dropped_first:
            yield from self._feed.take(text)
        yield from self._bare_calls(last=False)
        while True:
            text, literal = yield from self._feed.upto(self._literals())
            if text:
                self.add_content(text)
            elif not literal:
                return
            elif literal in self._form.dropped or literal == self._stray:
                self._stray = ""
            elif tags := [tag for tag in self._form.tags if tag.open == literal]:
                yield from self._tagged(tags)
            else:
                self._feed.back(len(literal) - 1)
                self.add_content("\n")
                yield from self._bare_calls(last=True)

    def _literals(self) -> tuple[str, ...]:
        dropped = (*self._form.dropped, *([self._stray] if self._stray else ()))
        if self._offer is None:
            return dropped
        opening = dict.fromkeys(tag.open for tag in self._form.tags)
        return (*opening, *dropped, *(_LINES if self._form.bare else ()))

    def _tagged(self, tags: list[Tag]) -> Steps[None]:
        """After a tag that opens calls: they, or it is content."""
        for tag in tags:
            for layout in tag.layouts:
                calls = yield from self._attempt(self._first(layout, tag.close))
                if calls is not None:
                    self.add_calls(calls)
                    yield from self._more(layout, tag.close)
                    yield from self._end_calls()
                    return
        self.add_content(tags[0].open)

    def _first(self, layout: Layout, close: str) -> Steps[list[Call]]:
        yield from self._feed.space()
        fenced = yield from open_fence(self._feed)
        calls = yield from layout.read(self._feed, self._functions, close)
        if fenced:
            yield from close_fence(self._feed)
        return calls

    def _more(self, layout: Layout, close: str) -> Steps[None]:
        """Further calls between the same tags, and the end of them."""
        while True:
            if close:
                yield from self._feed.run(_CLOSERS)
                if (yield from self._feed.take(close)):
                    return
            calls = yield from self._attempt(self._next(layout, close, bare=False))
            if calls is None:
                self._stray = close
                return
            self.add_calls(calls)

    def _next(self, layout: Layout, close: str, *, bare: bool) -> Steps[list[Call]]:
        yield from self._feed.run(_BETWEEN)
        calls = yield from layout.read(self._feed, self._functions, close, bare=bare)
        return calls

    def _bare_calls(self, *, last: bool) -> Steps[None]:
        """Calls without tags, or all in a code fence.

        `last`: text came before, so only where nothing follows; others are examples.
        """
        if self._offer is None:
            return
        for layout in self._form.bare:
            calls = yield from self._attempt(self._bare(layout, "", "", last=last))
            if calls is None:
                continue
            self.add_calls(calls)
            while more := (yield from self._attempt(self._next(layout, "", bare=True))):
                self.add_calls(more)
            yield from self._end_calls()
            return
        fenced = list[Tag]()
        yield from self._attempt(self._look_into_fence(fenced))
        for tag in fenced:
            for layout in tag.layouts:
                calls = yield from self._attempt(self._bare(layout, tag.open, tag.close, last=last))
                if calls is not None:
                    self.add_calls(calls)
                    yield from self._end_calls()
                    return

    def _look_into_fence(self, tags: list[Tag]) -> Steps[list[Call]]:
        """Note the tags that begin after the line that opens a code fence; it is never read."""
        yield from self._feed.space()
        if (yield from open_fence(self._feed)):
            yield from self._feed.space()
            for tag in self._form.tags:
                if (yield from self._feed.at(tag.open)):
                    tags.append(tag)
        raise Mismatch

    def _bare(self, layout: Layout, begin: str, end: str, *, last: bool) -> Steps[list[Call]]:
        """Calls that begin here; between `begin` and `end` only in a fence, else see `_tagged`."""
        feed, calls = self._feed, list[Call]()
        yield from feed.space()
        fenced = yield from open_fence(feed)
        if begin and not fenced:
            raise Mismatch
        yield from feed.space()
        following: str | None = None
        while following is None or following in "{[" or (begin and following == begin[0]):
            yield from feed.expect(begin)
            yield from feed.space()
            calls += yield from layout.read(feed, self._functions, end, bare=not begin)
            yield from feed.space()
            yield from feed.take(end)
            if not (fenced or last):
                return calls
            yield from feed.run(_BETWEEN)
            following = (yield from feed.peek()) or "`"
        if fenced:
            yield from close_fence(feed)
        yield from feed.space()
        if last and (yield from feed.peek()):
            raise Mismatch
        return calls

    def _end_calls(self) -> Steps[None]:
        """White space after calls: without line breaks it is content, if content follows."""
        space = yield from self._feed.space()
        self._breaks = [space.lstrip("\n")]
        self._after_call = True

    def _attempt(self, steps: Steps[list[Call]]) -> Steps[list[Call] | None]:
        """What `steps` find; None, and nothing read, where they find that there is none."""
        if not self._feed.may_hold:
            return None
        self._feed.hold()
        try:
            calls = yield from steps
        except Mismatch:
            self._feed.rewind()
            return None
        self._feed.drop()
        return calls

    @property
    def _functions(self) -> Offer:
        assert self._offer is not None
        return self._offer
