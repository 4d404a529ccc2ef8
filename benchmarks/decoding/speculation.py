"""Cascades against plain decoding at the same target: speed, acceptance, identity, memory.

    python -m benchmarks.decoding.speculation --name smollm2-135m --model smollm2-135m --planes 8

One model in one process. Every round runs every variant on every prompt before the next prompt, so
each cascade is held against the plain run of the same seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.decoding.prompts import load
from benchmarks.measure.arguments import add_model, positive
from benchmarks.measure.machine import pinned_cpus
from benchmarks.measure.occasion import Occasion, Subject
from benchmarks.measure.process import guarded, run
from benchmarks.measure.rows import RESULTS, append, layout
from halfbyte import LLM, SamplingParams
from halfbyte.api.results import Completion
from halfbyte.cascade.cascade import Cascade
from halfbyte.cascade.statistics import Statistics
from halfbyte.errors import ArgumentError
from halfbyte.evaluate.exactness import identical
from halfbyte.evaluate.prompts import BenchPrompt

# The nested pair at several draft lengths, QSpec's pair, and the equal-byte pair for what it is.
VARIANTS = (
    "w8a16",
    "w4a16",
    "w4a8",
    "w4a8 > w8a16 @2",
    "w4a8 > w8a16 @3",
    "w4a8 > w8a16 @4",
    "w4a8 > w8a16 @5",
    "w4a4 > w4a16 @3",
    "w4a8 > w4a16 @3",
)


@dataclass(frozen=True, slots=True)
class Variant:
    """A cascade and its lengths; written `CASCADE @LENGTH`, or `CASCADE @LENGTH/INNER`."""

    cascade: Cascade
    draft_length: int  # 0 for plain decoding
    inner_length: int = 0  # 0: as it is by default

    @classmethod
    def parse(cls, text: str) -> Variant:
        name, at, length = text.rpartition(" @")  # a path may have an @ of its own
        if not at:
            name, length = text, ""
        cascade = Cascade.parse(name)
        if cascade.draft is None and not at:
            return cls(cascade, 0)
        outer, slash, inner = length.strip().partition("/")
        lengths = [outer, inner] if slash else [outer]
        if cascade.draft is None or not all(n.isdigit() and int(n) >= 1 for n in lengths):
            raise ArgumentError(
                "--variant",
                got=repr(text),
                expected="LEVEL, CASCADE @LENGTH, or CASCADE @LENGTH/INNER",
                fix="for example 'w4a8 > w8a16 @3' or 'ngram > w4a8 > w8a16 @8/4'",
            )
        return cls(cascade, *map(int, lengths))

    @property
    def plain(self) -> Variant:
        return Variant(self.cascade.plain, 0)

    def __str__(self) -> str:
        if not self.draft_length:
            return str(self.cascade)
        inner = f"/{self.inner_length}" if self.inner_length else ""
        return f"{self.cascade} @{self.draft_length}{inner}"


@dataclass(slots=True)
class Measured:
    """One variant over the prompts of one kind."""

    rounds: list[Statistics]
    outputs: list[Completion]  # of the first round

    def speeds(self) -> list[float]:
        return [s.tokens_per_second for s in self.rounds]


def main() -> None:
    arguments = _parse()
    cpus = pinned_cpus(arguments.threads)
    os.sched_setaffinity(0, cpus)
    named = [Variant.parse(text) for text in arguments.variant or VARIANTS]
    # The plain run of every target is what its cascades are held against.
    variants = list(dict.fromkeys([v.plain for v in named if v.draft_length] + named))
    prompts = load(arguments.data, arguments.prompts)
    occasion = Occasion.begin(arguments.name, arguments.threads)
    llm = LLM(arguments.model, str(variants[0].cascade), arguments.threads, planes=arguments.planes)
    measured = measure(llm, variants, prompts, arguments.rounds, arguments.tokens)
    memory = {
        str(cascade): _memory(arguments, cascade, cpus)
        for cascade in dict.fromkeys(v.cascade for v in variants)
    }
    rows = []
    for (variant, kind), found in measured.items():
        plain = measured[variant.plain, kind]
        details = _details(llm, variant, found, plain)
        details["resident_bytes"] = memory[str(variant.cascade)]
        size = llm.model.runtime.weight_bytes(variant.cascade.target)
        subject = Subject.ours(layout(arguments.planes), size, str(variant.cascade))
        metric = f"generate {arguments.tokens} {kind}"
        rows.append(occasion.row(subject, metric, "tok/s", found.speeds(), details=details))
    append(arguments.output, rows)
    for row in rows:
        told = row.details or {}
        print(
            f"{row.metric:20} {row.cascade:16} @{told['draft_length']} {row.spread.median:7.1f} "
            f"tok/s  x{told['speedup']:.2f}  tau {told['tau']:.2f}  identical {told['identical']}"
        )


def measure(
    llm: LLM,
    variants: Sequence[Variant],
    prompts: Sequence[BenchPrompt],
    rounds: int,
    tokens: int,
) -> dict[tuple[Variant, str], Measured]:
    """`rounds` timed rounds; a short untimed run of each variant first wakes the threads."""
    llms = by_variant(llm, variants)
    for variant in variants:
        answer(llms[variant], prompts[0].text, 8)
    measured: dict[tuple[Variant, str], Measured] = defaultdict(lambda: Measured([], []))
    for turn in range(rounds):
        totals: dict[tuple[Variant, str], Statistics] = defaultdict(Statistics)
        for number, prompt in enumerate(prompts):
            # Each prompt starts with another variant: none always follows the same neighbour.
            shift = (number + turn) % len(variants)
            for variant in (*variants[shift:], *variants[:shift]):
                completion = answer(llms[variant], prompt.text, tokens)
                totals[variant, prompt.kind].add(completion.statistics)
                if turn == 0:
                    measured[variant, prompt.kind].outputs.append(completion)
        for key, total in totals.items():
            measured[key].rounds.append(total)
        print(f"round {turn + 1} of {rounds} done", file=sys.stderr, flush=True)
    order = {variant: place for place, variant in enumerate(variants)}
    return dict(sorted(measured.items(), key=lambda item: (item[0][1], order[item[0][0]])))


def by_variant(llm: LLM, variants: Sequence[Variant]) -> dict[Variant, LLM]:
    """The same weights under each variant, without a prefix cache."""
    return {
        v: llm.with_cascade(
            v.cascade,
            draft_length=v.draft_length or None,
            inner_length=v.inner_length or None,
            prefix_cache=False,
        )
        for v in variants
    }


def answer(llm: LLM, text: str, tokens: int, *, chat: bool = True) -> Completion:
    """`tokens` greedy tokens; where the model knows no chat, the text is continued."""
    params = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)
    if not chat or llm.model.source.chat_template is None:
        return llm.generate(text, params)[0]
    return llm.chat([{"role": "user", "content": text}], params)[0]


def _details(llm: LLM, variant: Variant, found: Measured, plain: Measured) -> dict[str, Any]:
    total, runtime = found.rounds[0], llm.model.runtime
    pairs = zip(found.speeds(), plain.speeds(), strict=True)
    return {
        "draft_length": variant.draft_length,
        "speedup": statistics.median(ours / theirs for ours, theirs in pairs),
        "tau": total.tau,
        "alpha": total.alpha,
        "identical": identical(found.outputs, plain.outputs),
        "bytes_per_token": total.bytes_per_token(runtime.weight_bytes(variant.cascade.target)),
        "draft_share": total.draft_seconds / total.decode_seconds,
        "host_share": total.host_seconds / total.decode_seconds,
        "prompts": len(found.outputs),
    }


def _memory(arguments: argparse.Namespace, cascade: Cascade, cpus: Sequence[int]) -> int:
    """Resident bytes of a fresh process that decodes under the cascade."""
    command = [sys.executable, "-m", "benchmarks.decoding.worker", "memory", arguments.model]
    command += ["--cascade", str(cascade), "--threads", str(arguments.threads)]
    if arguments.planes:
        command += ["--planes", str(arguments.planes)]
    return int(json.loads(run(command, cpus, {}).output)["memory"]["anonymous"])


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    add_model(parser)
    parser.add_argument("--variant", action="append", help="CASCADE @LENGTH; may be repeated")
    parser.add_argument("--data", type=Path, help="directory of humaneval*.jsonl, gsm8k*.jsonl")
    parser.add_argument("--prompts", type=positive, default=4, help="of each kind")
    parser.add_argument("--tokens", type=positive, default=128)
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS / "speculation.jsonl")
    return parser.parse_args()


if __name__ == "__main__":
    guarded(main)
