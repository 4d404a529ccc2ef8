"""What a model answers, and what its draft levels would say at every position of the answer.

That is all that a cascade of greedy decoding ever asks of a model, so a recording can stand for it
(`recorded_runtime.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure.workloads import Workload, token_ids
from halfbyte import LLM, SamplingParams
from halfbyte.config import Level
from halfbyte.errors import SourceError
from halfbyte.runtime.protocol import Batch, DraftRun, Runtime
from halfbyte.sampling.sampler import GREEDY, sampling_of

TOGETHER = 16  # texts recorded at a time


@dataclass(frozen=True, slots=True)
class Recording:
    """One request; `drafts[level][i]` goes on after the prompt and answer[: i + 1]. Another
    model's drafts are under the name of its stage."""

    kind: str
    prompt: list[int]
    answer: list[int]
    drafts: dict[str, list[list[int]]]

    def continues(self, level: str, text: Sequence[int]) -> int | None:
        """What the level says after a text; None where the recording cannot tell.

        Off the answer, a text is known as far as it is what the level drafted itself.
        """
        answer, drafts = list(text[len(self.prompt) :]), self.drafts[level]
        pairs = enumerate(zip(answer, self.answer, strict=False))
        same = next((i for i, (a, b) in pairs if a != b), len(answer))
        for at in range(min(same, len(drafts)), 0, -1):
            draft, ahead = drafts[at - 1], answer[at:]
            if len(ahead) < len(draft) and draft[: len(ahead)] == ahead:
                return draft[len(ahead)]
            if len(ahead) >= len(draft):
                break
        return None


def record(
    llm: LLM,
    prompts: Sequence[Workload],
    tokens: int,
    length: int,
    levels: Sequence[Level],
    offers: Mapping[str, LLM] | None = None,
) -> Iterator[Recording]:
    """Answers of `tokens` tokens, and drafts of `length` from each of their positions: of levels,
    and of other models by the names of their stages."""
    plain = llm.with_cascade(str(llm.cascade.target), prefix_cache=False)
    how = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)
    for at in range(0, len(prompts), TOGETHER):
        some = prompts[at : at + TOGETHER]
        texts = [token_ids(llm, prompt) for prompt in some]
        answers = [list(done.token_ids) for done in plain.generate(texts, how)]
        drafts = _drafts(llm, texts, answers, length, levels)
        for name, model in (offers or {}).items():
            level = model.cascade.target
            drafts[name] = _drafts(model, texts, answers, length, [level])[str(level)]
        for b, prompt in enumerate(some):
            own = {level: list(reversed(each[b])) for level, each in drafts.items()}
            yield Recording(prompt.kind, texts[b], answers[b], own)


def _drafts(
    llm: LLM,
    prompts: Sequence[list[int]],
    answers: Sequence[list[int]],
    length: int,
    levels: Sequence[Level],
) -> dict[str, list[list[list[int]]]]:
    """[text][position, from the last] of each level.

    From the last position to the first: a draft writes over the KV it stands on and after, and
    those still to come read what lies before.
    """
    runtime, pool = llm.model.runtime, llm.model.pool
    every = [[*p, *a] for p, a in zip(prompts, answers, strict=True)]
    counts = [pool.pages_for(len(text) + length) for text in every]
    pages = [[pool.take() for _ in range(count)] for count in counts]
    tables = np.full((len(every), max(counts)), -1, dtype=np.int32)
    for row, own in zip(tables, pages, strict=True):
        row[: len(own)] = own
    try:
        found = {}
        for level in levels:
            for text, row in zip(every, tables, strict=True):
                _fill(runtime, llm.cascade.target, text, row[None])
            found[str(level)] = _backwards(runtime, level, prompts, answers, length, tables)
        return found
    finally:
        for own in pages:
            for page in own:
                pool.give_back(page)


def _fill(runtime: Runtime, target: Level, text: list[int], pages: NDArray[np.int32]) -> None:
    """The target's KV of a text."""
    for at in range(0, len(text), runtime.max_rows):
        part = np.array(text[at : at + runtime.max_rows], dtype=np.int32)
        starts, firsts = np.array([0, len(part)], np.int32), np.array([at], np.int32)
        batch = Batch(part, starts, firsts, pages)
        runtime.forward(batch, target, np.empty(0, dtype=np.int32))


def _backwards(
    runtime: Runtime,
    level: Level,
    prompts: Sequence[list[int]],
    answers: Sequence[list[int]],
    length: int,
    tables: NDArray[np.int32],
) -> list[list[list[int]]]:
    count = len(prompts)
    found: list[list[list[int]]] = [[] for _ in prompts]
    for i in reversed(range(len(answers[0]) - 1)):
        roots = np.array([answer[i] for answer in answers], dtype=np.int32)
        firsts = np.array([len(prompt) + i for prompt in prompts], dtype=np.int32)
        starts = np.arange(count + 1, dtype=np.int32)
        lengths = np.full(count, length, dtype=np.int32)
        batch = Batch(roots, starts, firsts, tables)
        drawing = sampling_of([GREEDY], firsts + 1, [count])
        drafted = runtime.draft(batch, DraftRun(level, lengths), drawing)
        for own, tokens in zip(found, drafted.tokens.tolist(), strict=True):
            own.append(tokens)
    return found


def write(path: Path, recordings: Sequence[Recording]) -> None:
    """JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for recording in recordings:
            file.write(json.dumps(asdict(recording)) + "\n")


def read(path: Path) -> list[Recording]:
    """The inverse of `write`."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [Recording(**json.loads(line)) for line in lines]
    except (OSError, ValueError, TypeError) as error:
        raise SourceError(
            str(path),
            got=f"{type(error).__name__}: {error}",
            expected="recordings",
            fix="make them with python -m benchmarks.replay --record",
        ) from error
