"""Whether two short formulas are the same function: compared at a few values of their variables.

The text comes from a model, so it is parsed by a small grammar of its own and evaluated with
limits; nothing is ever executed as Python.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

MAX_CHARS = 200
_MAX_MAGNITUDE = 1e30
_MAX_DEPTH = 40
_TOKEN = re.compile(r"(\d+(?:\.\d+)?)|(sqrt|[a-z])|(.)")
# Small integers, since formulas count things; two points would let too much agree by chance.
_POINTS = (5, 7, 8, 11)


class _BadError(Exception):
    """Not a formula of this grammar, or not a number at these values."""


def same_formula(a: str, b: str) -> bool:
    """Both parse, have the same variables and agree at every test point."""
    names = _variables(a)
    if names != _variables(b):
        return False
    try:
        for shift in range(len(_POINTS) if names else 1):
            points = {
                name: float(_POINTS[(i + shift) % len(_POINTS)])
                for i, name in enumerate(sorted(names))
            }
            left, right = _Parser(a, points).value(), _Parser(b, points).value()
            if not _same_number(left, right):
                return False
    except (_BadError, ArithmeticError, ValueError):
        return False
    return True


def _same_number(a: float, b: float) -> bool:
    """Whole numbers that a float holds exactly must be equal; others up to what rounding leaves."""
    if a.is_integer() and b.is_integer() and max(abs(a), abs(b)) < 1 << 53:
        return a == b
    return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)


def _variables(text: str) -> set[str]:
    found = {name for _, name, _ in _TOKEN.findall(text[:MAX_CHARS]) if len(name) == 1}
    return found - {"c"} if "c(" in text else found


class _Parser:
    """sum := product (+|- product)*; product := power ((*|/)? power)*; power := unary (^ unary)?"""

    def __init__(self, text: str, variables: Mapping[str, float]) -> None:
        if len(text) > MAX_CHARS:
            raise _BadError
        self._tokens = [m.group() for m in _TOKEN.finditer(text.replace(" ", ""))]
        self._at = 0
        self._depth = 0
        self._variables = variables

    def value(self) -> float:
        result = self._sum()
        if self._at != len(self._tokens):
            raise _BadError
        return result

    def _peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _take(self, wanted: str) -> bool:
        if self._peek() == wanted:
            self._at += 1
            return True
        return False

    def _sum(self) -> float:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise _BadError
        total = self._product()
        while self._peek() in ("+", "-"):
            sign = 1 if self._take("+") else -1
            self._at += sign < 0
            total += sign * self._product()
        self._depth -= 1
        return _bounded(total)

    def _product(self) -> float:
        total = self._unary()
        while True:
            if self._take("*"):
                total *= self._unary()
            elif self._take("/"):
                total /= self._unary()
            elif self._peek() == "(" or self._peek().isalnum():
                total *= self._unary()  # 2n, n(n+1)
            else:
                return _bounded(total)

    def _unary(self) -> float:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise _BadError
        result = -self._unary() if self._take("-") else self._power()
        self._depth -= 1
        return result

    def _power(self) -> float:
        base = self._factorials(self._atom())
        if not self._take("^"):
            return base
        power = self._unary()
        if abs(power) > 400:
            raise _BadError
        result = base**power
        if isinstance(result, complex):
            raise _BadError
        return _bounded(result)

    def _factorials(self, value: float) -> float:
        while self._take("!"):
            if value != int(value) or not 0 <= value <= 170:
                raise _BadError
            value = float(math.factorial(int(value)))
        return value

    def _atom(self) -> float:
        token = self._peek()
        self._at += 1
        if token == "(":
            return self._closed(self._sum)
        if token == "sqrt" and self._take("("):
            inside = self._closed(self._sum)
            if inside < 0:
                raise _BadError
            return math.sqrt(inside)
        if token == "c" and self._peek() == "(":
            self._at += 1
            return self._closed(self._binomial)
        if token in self._variables:
            return self._variables[token]
        if token[:1].isdigit():
            return float(token)
        raise _BadError

    def _binomial(self) -> float:
        above = self._sum()
        if not self._take(","):
            raise _BadError
        below = self._sum()
        if above != int(above) or below != int(below) or not 0 <= above <= 500 or below < 0:
            raise _BadError
        return float(math.comb(int(above), int(below)))

    def _closed(self, read: Callable[[], float]) -> float:
        value = read()
        if not self._take(")"):
            raise _BadError
        return value


def _bounded(value: float) -> float:
    if not abs(value) < _MAX_MAGNITUDE:
        raise _BadError
    return value
