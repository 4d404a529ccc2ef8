"""Grammars in the notation of llama.cpp (GBNF) -> Lark, which llguidance reads.

    root ::= greeting " " [A-Z] [a-z]*      # a rule a line; | ( ) * + ? {m,n} . and # comments
    greeting ::= "hello" | "good morning"

A rule that leads back to itself stays a rule. All else becomes terminals as large as can be: a
terminal is followed exactly, while of a sequence of terminals each is read as far as it goes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from halfbyte.errors import ArgumentError

MAX_DEPTH = 64  # of parentheses
MAX_TIMES = 1_000_000
_RULE = re.compile(r"(?m)^[ \t]*[\w-]+[ \t]*::=")
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_TIMES = re.compile(r"\{\s*(\d{1,7})\s*(,?)\s*(\d{0,7})\s*\}")
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_SPACE, _SPACE_AND_LINES = re.compile(r"(?:[ \t]|#[^\r\n]*)*"), re.compile(r"(?:\s|#[^\r\n]*)*")
_PLAIN = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", '"': '"', "[": "[", "]": "]"}


def is_gbnf(text: str) -> bool:
    """Whether a grammar is written in this notation rather than in Lark's."""
    return _RULE.search(text) is not None


def lark_of(text: str) -> str:
    """The same grammar for llguidance. Raises `ArgumentError` where the text is none."""
    rules = _Parser(text).rules()
    if "root" not in rules:
        _refuse("no rule root", "a rule named root, where the text begins")
    for rule in rules.values():
        for name in _names(rule):
            if name not in rules:
                _refuse(f"no rule {name!r}", "a definition of every rule that is named")
    return _Writer(rules).text()


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A terminal in Lark's notation."""

    lark: str


@dataclass(frozen=True, slots=True)
class _Ref:
    name: str


@dataclass(frozen=True, slots=True)
class _Sequence:
    parts: tuple[_Node, ...]


@dataclass(frozen=True, slots=True)
class _Alternatives:
    parts: tuple[_Node, ...]


@dataclass(frozen=True, slots=True)
class _Repeat:
    part: _Node
    least: int
    most: int | None


_Node = _Leaf | _Ref | _Sequence | _Alternatives | _Repeat


class _Parser:
    """Reads rules from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def rules(self) -> dict[str, _Node]:
        """Every rule by its name; the last of a name counts."""
        found: dict[str, _Node] = {}
        self._skip(lines=True)
        while self._at < len(self._text):
            name = self._match(_NAME, "the name of a rule").group()
            self._skip()
            self._take("::=")
            self._skip(lines=True)
            found[name] = self._alternatives(0)
            if self._at < len(self._text) and self._text[self._at] not in "\r\n":
                self._fault("the end of the rule")
            self._skip(lines=True)
        return found

    def _alternatives(self, depth: int) -> _Node:
        parts = [self._sequence(depth)]
        while self._goes_on():
            parts.append(self._sequence(depth))
        return parts[0] if len(parts) == 1 else _Alternatives(tuple(parts))

    def _goes_on(self) -> bool:
        """Take a bar, be it on the next line."""
        end = self._at
        self._skip(lines=True)
        if self._peek() != "|":
            self._at = end
            return False
        self._at += 1
        self._skip(lines=True)
        return True

    def _sequence(self, depth: int) -> _Node:
        parts: list[_Node] = []
        while (start := self._peek()) and (start in '"[(.' or _NAME.match(start)):
            parts.append(self._repeated(self._item(start, depth)))
            self._skip(lines=depth > 0)
        return parts[0] if len(parts) == 1 else _Sequence(tuple(parts))

    def _item(self, start: str, depth: int) -> _Node:
        if start == '"':
            return self._literal()
        if start == "[":
            return self._class()
        if start == ".":
            self._at += 1
            return _Leaf("/(?s:.)/")
        if start == "(":
            if depth == MAX_DEPTH:
                self._fault(f"at most {MAX_DEPTH} parentheses within each other")
            self._at += 1
            self._skip(lines=True)
            inner = self._alternatives(depth + 1)
            self._take(")")
            return inner
        return _Ref(self._match(_NAME, "a name").group())

    def _repeated(self, part: _Node) -> _Node:
        self._skip()
        times = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(self._peek())
        if times is not None:
            self._at += 1
            return _Repeat(part, *times)
        if self._peek() != "{":
            return part
        least, comma, most = self._match(_TIMES, "{m}, {m,} or {m,n}").groups()
        high = int(least) if not comma else int(most) if most else None
        if max(int(least), high or 0) > MAX_TIMES or (high is not None and high < int(least)):
            self._fault(f"from few to many times, at most {MAX_TIMES}")
        return _Repeat(part, int(least), high)

    def _literal(self) -> _Node:
        self._at += 1
        text = ""
        while self._peek() != '"':
            text += self._character()
        self._at += 1
        return _Leaf(json.dumps(text, ensure_ascii=False))

    def _class(self) -> _Node:
        self._at += 1
        negated = self._peek() == "^"
        self._at += negated
        ranges = []
        while self._peek() != "]":
            first = last = self._character()
            if self._peek() == "-" and self._text[self._at + 1 : self._at + 2] not in ("]", ""):
                self._at += 1
                last = self._character()
            if last < first:
                self._fault("a range from low to high")
            ranges.append(f"\\x{{{ord(first):x}}}-\\x{{{ord(last):x}}}")
        self._at += 1
        if not ranges:
            return _Leaf("/(?s:.)/") if negated else self._fault("a character between [ and ]")
        return _Leaf(f"/[{'^' * negated}{''.join(ranges)}]/")

    def _character(self) -> str:
        if self._peek() != "\\":
            if self._at >= len(self._text):
                self._fault("a closing quote or bracket")
            self._at += 1
            return self._text[self._at - 1]
        escape = self._match(_ESCAPE, "an escape")
        *codes, plain = escape.groups()
        code = next((int(c, 16) for c in codes if c is not None), None)
        if code is None and plain in _PLAIN:
            return _PLAIN[plain]
        if code is None or code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
            self._at = escape.start()
            self._fault(r"one of \n \r \t \\ \" \[ \] \xHH \uHHHH \UHHHHHHHH")
        return chr(code)

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _skip(self, *, lines: bool = False) -> None:
        space = (_SPACE_AND_LINES if lines else _SPACE).match(self._text, self._at)
        assert space is not None
        self._at = space.end()

    def _take(self, mark: str) -> None:
        if not self._text.startswith(mark, self._at):
            self._fault(repr(mark))
        self._at += len(mark)

    def _match(self, pattern: re.Pattern[str], expected: str) -> re.Match[str]:
        found = pattern.match(self._text, self._at)
        if found is None:
            self._fault(expected)
        self._at = found.end()
        return found

    def _fault(self, expected: str) -> NoReturn:
        line = self._text.count("\n", 0, self._at) + 1
        rest = self._text[self._at : self._at + 20]
        _refuse(f"{rest!r} in line {line}" if rest else "its end", expected)


class _Writer:
    """Writes rules in Lark's notation."""

    def __init__(self, rules: dict[str, _Node]) -> None:
        self._rules = rules
        self._terminals = _without_cycles(rules)
        self._numbers = {name: i for i, name in enumerate(rules)}
        self._made: list[str] = []  # terminals for parts of rules

    def text(self) -> str:
        """All of it; the text is `start`."""
        lines = [f"start: {self._name('root')}"]
        lines += [f"{self._name(name)}: {self._of(rule)}" for name, rule in self._rules.items()]
        return "\n".join([*lines, *self._made])

    def _name(self, rule: str) -> str:
        return f"{'T' if rule in self._terminals else 'r'}{self._numbers[rule]}"

    def _of(self, node: _Node) -> str:
        match node:
            case _Leaf(lark):
                return lark
            case _Ref(name):
                return self._name(name)
            case _Repeat(part, least, most):
                return f"({self._of(part)}){{{least},{'' if most is None else most}}}"
            case _Alternatives(parts):
                return f"({' | '.join(map(self._of, parts))})"
            case _Sequence(parts) if self._is_terminal(node):
                return " ".join(map(self._of, parts)) or '""'
            case _Sequence(parts):
                return " ".join(self._grouped(parts))

    def _grouped(self, parts: tuple[_Node, ...]) -> Iterator[str]:
        """Neighbours that are terminals as one."""
        group: list[_Node] = []
        for part in (*parts, None):
            if part is not None and self._is_terminal(part):
                group.append(part)
                continue
            if len(group) == 1 and isinstance(group[0], _Leaf | _Ref):
                yield self._of(group[0])
            elif group:
                name = f"P{len(self._made)}"
                self._made.append(f"{name}: {' '.join(map(self._of, group))}")
                yield name
            group = []
            if part is not None:
                yield self._of(part)

    def _is_terminal(self, node: _Node) -> bool:
        return all(name in self._terminals for name in _names(node))


def _names(node: _Node) -> Iterator[str]:
    """Rules that a node names."""
    match node:
        case _Ref(name):
            yield name
        case _Repeat(part):
            yield from _names(part)
        case _Alternatives(parts) | _Sequence(parts):
            for part in parts:
                yield from _names(part)


def _without_cycles(rules: dict[str, _Node]) -> frozenset[str]:
    """The rules that lead to no rule which leads back to itself."""
    users: dict[str, list[str]] = {name: [] for name in rules}
    open_names = dict.fromkeys(rules, 0)
    for name, rule in rules.items():
        for named in _names(rule):
            users[named].append(name)
            open_names[name] += 1
    found, ready = set[str](), [name for name, count in open_names.items() if count == 0]
    while ready:
        name = ready.pop()
        found.add(name)
        for user in users[name]:
            open_names[user] -= 1
            if open_names[user] == 0:
                ready.append(user)
    return frozenset(found)


def _refuse(got: str, expected: str) -> NoReturn:
    raise ArgumentError(
        "structured_outputs.grammar",
        got=got[:120],
        expected=expected,
        fix="correct the grammar (GBNF, since it has rules with ::=)",
    )
