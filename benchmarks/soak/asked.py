"""Conversations, tools and grammars of the soak, and what an answer to them says.

They are compared with the answer to the same body when it is asked alone, decoded plainly.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
WORDS = ("what", "is", "the", "sea", "red", "of", "and", "a", "day", "in")
NAMED = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 12}}}
CONSTRAINTS: Sequence[dict[str, Any]] = (
    {"choice": ["yes", "no", "perhaps so"]},
    {"regex": "[a-f]{2,9}( [0-9]{1,3})?"},
    {"json": NAMED | {"required": ["name"], "additionalProperties": False}},
    {"grammar": 'start: "a" | "b" start | "(" start ")"'},
)
TOOLS: Sequence[dict[str, Any]] = (
    {"type": "function", "function": {"name": "find", "parameters": NAMED}},
    {"type": "function", "function": {"name": "stop"}},
)


@dataclass(frozen=True, slots=True)
class Asked:
    """A body, where it was sent, and what the answer said."""

    path: str
    body: dict[str, Any]
    said: dict[str, Any]

    @property
    def alone(self) -> dict[str, Any]:
        """The body that asks the same for plain decoding, whole."""
        return self.body | {"stream": False, "cascade": "none"}


def conversation(rng: random.Random, longest: int, *, tools: bool) -> dict[str, Any]:
    """A body for a chat; with tools the answer may be, or must be, a call."""
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(1, 20))) for _ in range(3)]
    messages = [{"role": "user", "content": texts[0]}]
    if rng.random() < 0.4:
        messages += [
            {"role": "assistant", "content": texts[1]},
            {"role": "user", "content": texts[2]},
        ]
    body = _sampled(rng, longest) | {"messages": messages, "logprobs": True}
    if tools:
        return body | {
            "tools": list(TOOLS),
            "tool_choice": rng.choice(("auto", "required")),
        }
    return body | {"response_format": rng.choice((None, None, {"type": "json_object"}))}


def constrained(rng: random.Random, longest: int) -> dict[str, Any]:
    """A body for a completion whose text has a form."""
    prompt = " ".join(rng.choices(WORDS, k=rng.randint(1, 20)))
    wanted = {"prompt": prompt, "structured_outputs": rng.choice(CONSTRAINTS), "logprobs": 0}
    return _sampled(rng, longest) | wanted


def _sampled(rng: random.Random, longest: int) -> dict[str, Any]:
    return {
        "temperature": rng.choice((0, 0.8)),
        "seed": rng.randrange(2**63),
        "max_tokens": rng.randint(1, longest),
        "stream": rng.random() < 0.5,
    }


def said_by(choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Text, calls, log-probabilities and end of one choice, whole or in the deltas of a stream."""
    text, calls, logprobs, reason = "", list[list[str]](), list[float](), None
    for choice in choices:
        part = choice.get("delta") or choice.get("message") or {}
        text += choice.get("text") or part.get("content") or ""
        for call in part.get("tool_calls") or []:
            at = call.get("index", len(calls))
            while at >= len(calls):
                calls.append(["", ""])
            function = call["function"]
            calls[at][0] += function.get("name") or ""
            calls[at][1] += function.get("arguments") or ""
        found = choice.get("logprobs") or {}
        logprobs += found.get("token_logprobs") or []
        logprobs += [entry["logprob"] for entry in found.get("content") or []]
        reason = choice["finish_reason"] or reason
    read = [(name, _loaded(arguments)) for name, arguments in calls]
    return {"text": text, "calls": read, "logprobs": logprobs, "finish_reason": reason}


def _loaded(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except ValueError:  # cut off by max_tokens
        return arguments
