"""Calls of earlier answers, put so that a template shows them as it was written to.

Templates differ in what they expect: arguments as an object or as text, content that is empty or
missing, ids of nine letters and digits or with the function's name in them.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_NINE = re.compile(r"[a-zA-Z0-9]{9}")
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, slots=True)
class Replay:
    """How one template wants the calls of earlier answers."""

    arguments_as_text: bool = False
    empty_content: str = "missing"  # of an answer that only calls: missing | empty | none
    ids: str = "any"  # any | nine (letters and digits) | named (functions.NAME:INDEX)

    def applied(self, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The messages in the way the template wants them; other fields that are None go."""
        ids, result = _Ids(self.ids), list[dict[str, Any]]()
        for message in messages:
            put = {name: value for name, value in message.items() if value is not None}
            if put.get("tool_calls"):
                put["tool_calls"] = [self._call(call, ids) for call in put["tool_calls"]]
                if not put.get("content"):
                    put.pop("content", None)
                    if self.empty_content != "missing":
                        put["content"] = "" if self.empty_content == "empty" else None
            if "tool_call_id" in put:
                put["tool_call_id"] = ids.of_result(put["tool_call_id"])
            result.append(put)
        return result

    def new_id(self, name: str, index: int) -> str:
        """An id for call number `index` of a conversation."""
        if self.ids == "named":
            return f"functions.{name}:{index}"
        if self.ids == "nine":
            return "".join(secrets.choice(_DIGITS) for _ in range(9))
        return f"call_{secrets.token_hex(12)}"

    def _call(self, call: Mapping[str, Any], ids: _Ids) -> dict[str, Any]:
        function = dict(call["function"])
        if self.arguments_as_text:
            function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
        return {**call, "id": ids.of_call(call.get("id"), function["name"]), "function": function}


class _Ids:
    """Ids of one conversation in the form a template wants; those that have it stay."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._known = dict[str, str]()
        self._calls = 0

    def of_call(self, given: Any, name: str) -> Any:
        """Of a call."""
        if self._kind == "any" or not isinstance(given, str):
            return given
        index, self._calls = self._calls, self._calls + 1
        if self._kind == "named":
            made = given if re.fullmatch(rf"functions\.{re.escape(name)}:\d+", given) else None
            self._known[given] = made or f"functions.{name}:{index}"
        else:
            self._known[given] = _nine(given)
        return self._known[given]

    def of_result(self, given: Any) -> Any:
        """Of a result: the one its call got."""
        if self._kind == "any" or not isinstance(given, str):
            return given
        return self._known.get(given, _nine(given) if self._kind == "nine" else given)


def _nine(given: str) -> str:
    if _NINE.fullmatch(given):
        return given
    number = int.from_bytes(hashlib.sha256(given.encode()).digest()[:8])
    digits = ""
    for _ in range(9):
        number, digit = divmod(number, len(_DIGITS))
        digits += _DIGITS[digit]
    return digits
