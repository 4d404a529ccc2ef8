"""What benchmarks of cascades decode: kinds of work, from public texts or built-in prompts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halfbyte import LLM
from halfbyte.errors import SourceError
from halfbyte.evaluate.prompts import PROMPTS

KINDS = ("chat", "code", "maths", "copy", "free")
REPETITIVE = ("edit", "quotes")  # whose answers repeat what they are given
COPIED_CHARS = 1200  # of the text that is to be repeated
OPENING_CHARS = 600  # of the text that is continued


@dataclass(frozen=True, slots=True)
class Workload:
    """One prompt; `is_chat`: a user's message, else a text to continue."""

    kind: str
    text: str
    is_chat: bool


@dataclass(frozen=True, slots=True)
class _Set:
    pattern: str
    text: Callable[[Any], str]
    ask: str
    is_chat: bool = True


_SETS = {
    "chat": _Set("mt_bench*.jsonl", lambda row: str(row["turns"][0]), "{}"),
    "code": _Set(
        "humaneval*.jsonl",
        lambda row: str(row["prompt"]),
        "Complete this Python function and explain how it works.\n\n```python\n{}```",
    ),
    "maths": _Set(
        "gsm8k*.jsonl",
        lambda row: str(row["question"]),
        "{}\n\nThink step by step and give the answer.",
    ),
    "copy": _Set(
        "text_by_source*.jsonl",
        lambda row: str(row["text"])[:COPIED_CHARS],
        "Correct the spelling of this text where needed and write the whole text again, with"
        " nothing else changed:\n\n{}",
    ),
    "edit": _Set(
        "humaneval*.jsonl",
        lambda row: f"{row['prompt']}{row['canonical_solution']}",
        "Rename the function of this file to `solve` and give the whole file back, everything else"
        " as it is.\n\n```python\n{}```",
    ),
    "quotes": _Set(
        "text_by_source*.jsonl",
        lambda row: str(row["text"])[:COPIED_CHARS],
        "What does this text say? Quote its sentences word for word, one after the other, each"
        " followed by a few words of explanation.\n\n{}",
    ),
    "free": _Set(
        "text_by_source*.jsonl",
        lambda row: str(row["text"])[:OPENING_CHARS],
        "{}",
        is_chat=False,
    ),
}


def load(data: Path | None, kinds: Sequence[str], count: int) -> dict[str, list[Workload]]:
    """`count` prompts of each kind, evenly spread over its file; without `data` built-in ones."""
    return {kind: _load(data, kind, count) if data else _built_in(kind) for kind in kinds}


def _built_in(kind: str) -> list[Workload]:
    found = [Workload(kind, prompt.text, True) for prompt in PROMPTS if prompt.kind == kind]
    if not found:
        known = ", ".join(dict.fromkeys(prompt.kind for prompt in PROMPTS))
        raise SourceError(
            f"prompts of kind {kind}",
            got="no --data",
            expected=f"a directory of texts; built in are {known}",
            fix="see benchmarks/README.md for the files",
        )
    return found


def _load(data: Path, kind: str, count: int) -> list[Workload]:
    source = _SETS[kind]
    found = sorted(data.glob(source.pattern))
    if not found:
        raise SourceError(
            "--data",
            got=f"no {source.pattern} in {data}",
            expected="JSON lines",
            fix="see benchmarks/README.md for the files, or leave the kind out of --kinds",
        )
    try:
        lines = [line for line in found[0].read_text(encoding="utf-8").splitlines() if line.strip()]
        # Free text takes the rows that the others do not.
        lines = lines[kind == "free" :: 1 + (kind in ("copy", "quotes", "free"))]
        texts = [source.text(json.loads(line)) for line in lines]
    except (ValueError, LookupError, TypeError) as error:
        raise SourceError(
            str(found[0]),
            got=f"{type(error).__name__}: {error}",
            expected=f"objects as benchmarks/README.md says for {kind}",
            fix="check the file",
        ) from error
    step = max(1, len(texts) // count)
    chosen = texts[::step][:count]
    if len(chosen) < count:
        raise SourceError(
            str(found[0]), got=f"{len(chosen)} texts", expected=f"{count}", fix="ask for fewer"
        )
    return [Workload(kind, source.ask.format(text), source.is_chat) for text in chosen]


def token_ids(llm: LLM, prompt: Workload) -> list[int]:
    """A prompt as the model's tokens: a message by its chat template, where it has one."""
    if not prompt.is_chat or llm.model.source.chat_template is None:
        return llm.model.codec.encode(prompt.text)
    text = llm.model.template.render([{"role": "user", "content": prompt.text}])
    return llm.model.codec.encode(text, as_chat=True)
