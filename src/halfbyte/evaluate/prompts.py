"""The prompts of `bench` and the demo: code, maths and chat, written for this project."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BenchPrompt:
    """A prompt and the kind of work it stands for."""

    kind: str  # code | maths | chat
    text: str


PROMPTS = (
    BenchPrompt(
        "code",
        "Write a Python function that merges two sorted lists into one sorted list, with a short"
        " docstring and an example of its use.",
    ),
    BenchPrompt(
        "maths",
        "A shop sells pencils at 3 for 2 dollars. Anna buys 18 pencils and pays with a 20 dollar"
        " note. How much change does she get? Explain every step.",
    ),
    BenchPrompt(
        "chat",
        "I have a free Saturday in a town by the sea and it may rain. Suggest a plan for the day.",
    ),
)
