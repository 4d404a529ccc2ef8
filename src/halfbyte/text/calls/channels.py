"""Answers made of messages with headers: each names its channel and recipient."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Protocol

from halfbyte.text.calls.call import Call, Offer, make_call
from halfbyte.text.calls.feed import Mismatch, Steps, TextFeed
from halfbyte.text.calls.forms import Channels
from halfbyte.text.calls.values import value


class Sink(Protocol):
    """What is found goes here."""

    def add_content(self, text: str) -> None:
        """Text for the user."""

    def add_reasoning(self, text: str) -> None:
        """Text for itself."""

    def add_calls(self, calls: list[Call]) -> None:
        """Whole calls."""


def read_channels(feed: TextFeed, form: Channels, offer: Offer | None, sink: Sink) -> Steps[None]:
    """Every message of an answer. The prompt has begun the first one's header."""
    recipient = re.compile(re.escape(form.recipient) + r"([\w.-]+)")
    channel = re.compile(re.escape(form.channel) + r"\s*(\w+)")
    ends = (*form.ends, form.start)
    begun = set[bool]()
    while True:
        header = yield from _header(feed, form)
        to, on = recipient.search(header), channel.search(header)
        thought = on is not None and on[1] == form.reasoning
        add = sink.add_reasoning if thought else sink.add_content
        call = None
        if to and offer is not None:
            call = yield from _call(feed, to[1].removeprefix(form.prefix), ends)
            if call is not None:
                sink.add_calls([call])
        # Apart from the message before on the same channel.
        found, is_empty = yield from _body(feed, ends, add, "\n\n" if thought in begun else "")
        if call is None:
            begun.add(thought)
        if found == form.start and (header or not is_empty):  # else it begins no header: left out
            feed.back(len(found))
        elif not found:
            return


def _header(feed: TextFeed, form: Channels) -> Steps[str]:
    """What stands before a message; empty where its text comes at once."""
    feed.hold()
    try:
        space = yield from feed.space()
        for begin in (form.start, form.channel, form.recipient):
            if (yield from feed.at(begin)):
                text = yield from feed.through(form.message)
                feed.drop()
                return space + text
        raise Mismatch
    except Mismatch:
        feed.rewind()
        return ""


def _call(feed: TextFeed, name: str, ends: tuple[str, ...]) -> Steps[Call | None]:
    """The call a message is; None, and nothing read, where it is text."""
    feed.hold()
    try:
        call = make_call(name, (yield from value(feed)))
        yield from feed.space()
        if (yield from feed.peek()):
            for end in ends:
                if (yield from feed.at(end)):
                    break
            else:
                raise Mismatch
        feed.drop()
    except Mismatch:
        feed.rewind()
        return None
    return call


def _body(
    feed: TextFeed, ends: tuple[str, ...], add: Callable[[str], None], before: str
) -> Steps[tuple[str, bool]]:
    """A message's text, given on as it comes. Returns what ended it and whether it was empty."""
    is_empty = True
    while True:
        text, found = yield from feed.upto(ends)
        if not text:
            return found, is_empty
        is_empty = False
        add(before + text)
        before = ""
