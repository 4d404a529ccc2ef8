"""What a draft head loses where accepted tokens keep the KV of guessed features (claim C7).

    python -m benchmarks.decoding.refresh --name smollm2-135m --model smollm2-135m --planes 8 \\
        --data DIR --head HEAD

A head's rows of a tree read features that it guessed. After the target's verdict ours run the
accepted ones again with the target's true features. This counts the tokens a cycle with that, and
with guesses kept, over the same prompts: no time is measured.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure.arguments import add_model, names, positive
from benchmarks.measure.occasion import Occasion, Subject
from benchmarks.measure.process import guarded
from benchmarks.measure.rows import RESULTS, Row, append, layout
from benchmarks.measure.workloads import KINDS, Workload, load, token_ids
from halfbyte import LLM, SamplingParams
from halfbyte.api.request import Request
from halfbyte.cascade.cascade import Cascade
from halfbyte.cascade.decoding import Decoding
from halfbyte.cascade.planning import FixedPlan
from halfbyte.cascade.stages import Eagle
from halfbyte.cascade.statistics import Statistics
from halfbyte.config import Level
from halfbyte.engine.engine import Engine
from halfbyte.errors import ArgumentError
from halfbyte.proposers.eagle import EagleProposer, _Sketch
from halfbyte.runtime.draft_head import HeadStep
from halfbyte.runtime.protocol import Batch

F32 = NDArray[np.float32]


class Guessing(EagleProposer):
    """Of what a cycle accepted, rows but the last keep the features the head guessed."""

    def begin(self, sequence: Decoding) -> None:
        """As the head; nothing is guessed yet."""
        super().begin(sequence)
        self._guess: F32 | None = None  # of the root, by the row before it
        self._root = 0

    def _run_spans(self, sketches: list[_Sketch], spans: list[tuple[int, int, int]]) -> HeadStep:
        [(number, begin, end)] = spans  # one sequence at a time
        guess = self._guess if begin == self._root else None
        for position in range(begin, end - 1 if guess is not None else begin):
            assert guess is not None
            step = self._run_row(sketches[number], position, guess)
            begin, guess = position + 1, step.hidden[-1]
        step = super()._run_spans(sketches, [(number, begin, end)])
        if end == sketches[number].ask.root_position:
            self._guess, self._root = step.hidden[-1], end
        return step

    def _run_row(self, sketch: _Sketch, position: int, feature: F32) -> HeadStep:
        tokens = sketch.ask.sequence.tokens[position + 1 : position + 2]
        batch = Batch(
            np.array(tokens, dtype=np.int32),
            np.array([0, 1], dtype=np.int32),
            np.array([position], dtype=np.int32),
            sketch.pages[None],
        )
        row = np.zeros(1, dtype=np.int32)
        return self._head.forward(batch, self._head.level, feature[None], row, 1)


def main() -> None:
    arguments = _parse()
    target, stage = Level.parse(arguments.target), Eagle(str(arguments.head))
    cascade = Cascade((stage, target))
    occasion = Occasion.begin(arguments.name, arguments.threads)
    llm = LLM(
        arguments.model,
        cascade,
        arguments.threads,
        planes=arguments.planes,
        draft_length=arguments.nodes,
        prefix_cache=False,
    )
    head = llm.model.open_head(stage)
    rows: list[Row] = []
    for kind, prompts in load(arguments.data, arguments.kinds, arguments.prompts).items():
        outputs = []
        for name, proposing in (("refreshed", EagleProposer), ("guessed", Guessing)):
            proposer = proposing(str(stage), head, llm.model.runtime)
            found = [answer(llm, proposer, prompt, arguments) for prompt in prompts]
            outputs.append([tokens for tokens, _ in found])
            total = Statistics()
            for _, seen in found:
                total.add(seen)
            size = llm.model.runtime.weight_bytes(target)
            shown = f"eagle:{arguments.alias} > {target} @{arguments.nodes}"
            details = {
                "tau": total.tau,
                "alpha": total.alpha,
                "prompts": len(found),
                "tokens": arguments.tokens,
                "identical": outputs[-1] == outputs[0],
            }
            rows.append(
                occasion.row(
                    Subject.ours(layout(arguments.planes), size, shown),
                    f"features {name} {kind}",
                    "tokens a cycle",
                    [seen.tau for _, seen in found],
                    details=details,
                )
            )
            print(
                f"{rows[-1].metric:26} tau {total.tau:.3f}  identical {outputs[-1] == outputs[0]}"
            )
    append(arguments.output, rows)


def answer(
    llm: LLM, proposer: EagleProposer, prompt: Workload, arguments: argparse.Namespace
) -> tuple[list[int], Statistics]:
    """One prompt with a proposer: what came, and in how many cycles."""
    model = llm.model
    params = SamplingParams(temperature=0.0, max_tokens=arguments.tokens, ignore_eos=True)
    plan = FixedPlan(proposer, arguments.nodes)
    engine = Engine(model.runtime, model.pool, llm.cascade, llm.options, lambda _: plan)
    sequence = Request(model, token_ids(llm, prompt), params).sequence
    engine.add(sequence)
    try:
        while engine.has_work:
            engine.step()
    finally:
        engine.close()
    return list(sequence.emitted), engine.statistics


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    add_model(parser)
    parser.add_argument("--data", type=Path, required=True, help="directory of the texts")
    parser.add_argument("--head", type=Path, required=True, help="a draft head of the model")
    parser.add_argument("--alias", default="trained", help="the head's name in rows")
    parser.add_argument("--target", default="w8a16")
    parser.add_argument("--kinds", type=names, default="chat,code")
    parser.add_argument("--nodes", type=positive, default=8, help="of a tree")
    parser.add_argument("--prompts", type=positive, default=8, help="of each kind")
    parser.add_argument("--tokens", type=positive, default=128)
    parser.add_argument("--output", type=Path, default=RESULTS / "hierarchy.jsonl")
    arguments = parser.parse_args()
    unknown = [kind for kind in arguments.kinds if kind not in KINDS]
    if unknown:
        raise ArgumentError(
            "--kinds", got=unknown[0], expected=", ".join(KINDS), fix="choose among those"
        )
    return arguments


if __name__ == "__main__":
    guarded(main)
