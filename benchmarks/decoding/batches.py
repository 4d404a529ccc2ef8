"""Offline batches: all prompts given at once, tokens/s of all together, prompts included.

    python -m benchmarks.decoding.batches --name smollm2-135m --model smollm2-135m \\
        --openvino-python VENV/bin/python --openvino-model SMOLLM2.gguf \\
        --onnxruntime-python VENV/bin/python --onnxruntime-model DIR

Each round asks every engine once, in a process of its own on the pinned CPUs: the same prompts of
about 128 tokens, exactly as many new tokens for each. OpenVINO GenAI reads a GGUF file, or what
optimum-cli exported; onnxruntime-genai what its model builder made (benchmarks/README.md). Their
Python is one that has them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import peers
from benchmarks.measure.arguments import add_model, names, positive
from benchmarks.measure.machine import pinned_cpus
from benchmarks.measure.occasion import Occasion, Subject
from benchmarks.measure.process import guarded, run
from benchmarks.measure.rows import RESULTS, keep, layout
from benchmarks.serving.streams import prompt_text
from halfbyte import LLM, SamplingParams, __version__

PEERS = ("openvino", "onnxruntime")  # each with a program in benchmarks/peers


@dataclass(frozen=True, slots=True)
class Contender:
    """An engine, and the command that prints its result as one JSON object."""

    engine: str
    format: str
    cascade: str
    command: tuple[str, ...]


def main() -> None:
    arguments = _parse()
    if arguments.one:
        print(json.dumps(_ours(arguments)))
        return
    cpus = pinned_cpus(arguments.threads)
    occasion = Occasion.begin(arguments.name, arguments.threads)
    contenders = _contenders(arguments)
    found: dict[tuple[int, int], list[float]] = {}
    said: dict[int, dict[str, object]] = {}
    for turn in range(arguments.rounds):
        for i, contender in enumerate(contenders):
            said[i] = json.loads(run(contender.command, cpus, {}).output.splitlines()[-1])
            rates = said[i]["tokens_per_second"]
            assert isinstance(rates, dict)
            for batch, rate in rates.items():
                found.setdefault((i, int(batch)), []).append(rate)
            print(f"{turn + 1}  {contender.engine:14} {contender.cascade:8} {rates}", flush=True)
    details = {"prompt_tokens": arguments.prompt_tokens, "tokens": arguments.tokens}
    rows = []
    for (i, batch), values in found.items():
        one = contenders[i]
        version, size = str(said[i]["version"]), int(str(said[i]["bytes"]))
        subject = Subject(one.engine, version, one.format, size, one.cascade)
        metric = f"offline batch {batch}"
        rows.append(occasion.row(subject, metric, "tok/s", values, details=details))
    keep(arguments.output, rows)


def _contenders(arguments: argparse.Namespace) -> list[Contender]:
    work = [str(arguments.tokens), str(arguments.prompt_tokens), *map(str, arguments.batch)]
    planes = ["--planes", str(arguments.planes)] if arguments.planes else []
    ours = [sys.executable, "-m", "benchmarks.decoding.batches", "--one", "--name", arguments.name]
    ours += ["--model", arguments.model, *planes, "--threads", str(arguments.threads)]
    ours += ["--tokens", work[0], "--prompt-tokens", work[1], "--batch", *work[2:]]
    found = [
        Contender("halfbyte", layout(arguments.planes), cascade, (*ours, "--cascades", cascade))
        for cascade in arguments.cascades
    ]
    given = json.dumps([_prompts(batch, arguments.prompt_tokens) for batch in arguments.batch])
    for peer in PEERS:
        python = getattr(arguments, f"{peer}_python")
        model: Path | None = getattr(arguments, f"{peer}_model")
        if python and model:
            program = Path(peers.__file__).with_name(f"{peer}_batches.py")
            command = (str(python), str(program), str(model), str(arguments.threads), work[0])
            name = model.name.removesuffix(".gguf").rpartition(".")[2]
            found.append(Contender(f"{peer}-genai", name, "", (*command, given)))
    return found


def _prompts(batch: int, length: int) -> list[str]:
    return [prompt_text(1000 * batch + k, length) for k in range(batch)]


def _ours(arguments: argparse.Namespace) -> dict[str, object]:
    """Tokens per second by batch."""
    room = max(arguments.batch) * (arguments.prompt_tokens + arguments.tokens + 128)
    llm = LLM(
        arguments.model,
        arguments.cascades[0],
        arguments.threads,
        planes=arguments.planes,
        max_batch=max(arguments.batch),
        num_tokens=room,
        prefix_cache=False,
    )
    params = SamplingParams(temperature=0.0, max_tokens=arguments.tokens, ignore_eos=True)
    llm.generate(_prompts(max(arguments.batch), 32), params)
    rates = {}
    for batch in arguments.batch:
        prompts = _prompts(batch, arguments.prompt_tokens)
        began = time.perf_counter()
        done = llm.generate(prompts, params)
        seconds = time.perf_counter() - began
        assert all(len(answer.token_ids) == arguments.tokens for answer in done)
        rates[batch] = batch * arguments.tokens / seconds
    size = llm.model.runtime.weight_bytes(llm.cascade.target)
    return {"tokens_per_second": rates, "version": __version__, "bytes": size}


def _parse(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    add_model(parser)
    parser.add_argument("--cascades", type=names, default="w4a8,w8a8")
    parser.add_argument("--batch", type=positive, nargs="+", default=[1, 8, 16])
    parser.add_argument("--prompt-tokens", type=positive, default=128, help="about")
    parser.add_argument("--tokens", type=positive, default=128, help="new ones, of every prompt")
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--openvino-python", type=Path, help="a Python with openvino-genai")
    parser.add_argument("--openvino-model", type=Path, help="GGUF file or exported directory")
    parser.add_argument("--onnxruntime-python", type=Path, help="one with onnxruntime-genai")
    parser.add_argument("--onnxruntime-model", type=Path, help="directory of its model builder")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=RESULTS / "batches.jsonl")
    return parser.parse_args(given)


if __name__ == "__main__":
    guarded(main)
