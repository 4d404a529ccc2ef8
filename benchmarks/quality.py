"""How good both levels of a checkpoint are, scheme by scheme: `results/quality/schemes.jsonl`.

    python -m benchmarks.quality --name NAME --model SRC --calibration c4.txt \
        --text wiki=wiki.txt --text code=code.txt --schemes rtn,gptq --work DIR

Every text is cut into sequences of 512 tokens (teacher-forced). Against the source at `f32`: the
perplexity of the target level, its mean KL divergence, its top-1 agreement. Against the target:
the agreement of the draft level, alpha. `gptq@W` weighs 8-bit errors by W (quantize/gptq.py).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import machine, rows
from benchmarks.arguments import names, positive
from halfbyte.calibration.quantize import QuantizeOptions, quantize_by
from halfbyte.calibration.text import Amount
from halfbyte.config import Level
from halfbyte.errors import ArgumentError
from halfbyte.formats.checkpoint import Checkpoint
from halfbyte.importers.resolve import open_weights
from halfbyte.quantize.gptq import Gptq
from halfbyte.quantize.scheme import Scheme
from halfbyte.quantize.schemes import scheme_named
from halfbyte.runtime.native import NativeRuntime
from halfbyte.runtime.protocol import Batch
from halfbyte.text import TextCodec

LENGTH = 512
F64 = NDArray[np.float64]
F32_LEVEL = Level(32, 32)


@dataclass(slots=True)
class Sums:
    """What one level did over one text."""

    nll: list[F64] = field(default_factory=list)  # of the next token, [tokens] a sequence
    kl: list[F64] = field(default_factory=list)  # source to level
    agrees: list[NDArray[np.bool_]] = field(default_factory=list)  # with the level it is held to

    def values(self) -> dict[str, tuple[float, float]]:
        """Metric -> (value, standard error over sequences)."""
        nll, error = _mean(self.nll)
        found = {"perplexity": (float(np.exp(nll)), float(np.exp(nll)) * error)}
        found["agreement"] = _mean([a.astype(np.float64) for a in self.agrees])
        found["kl"] = _mean(self.kl)
        return found


def scheme_of(text: str) -> Scheme:
    """A scheme by name; `gptq@64` sets what 8-bit errors weigh."""
    name, _, weight = text.partition("@")
    if not weight:
        return scheme_named(name)
    if name != "gptq":
        raise ArgumentError("scheme", got=text, expected="gptq@WEIGHT", fix="drop the weight")
    return Scheme(text, Gptq(lo_weight=float(weight)))


def build(args: argparse.Namespace, text: str, planes: int) -> Path:
    """The checkpoint of a scheme, made unless it is there."""
    dest: Path = args.work / f"{args.name}-{text}-{planes}p-g{args.group}-{args.tokens}"
    if not dest.exists():
        options = QuantizeOptions(
            text, planes, args.group, args.calibration, Amount(args.tokens), 0, args.threads
        )
        quantize_by(scheme_of(text), args.model, dest, options, tell=print)
    return dest


class Model:
    """A runtime that runs whole sequences from position 0."""

    def __init__(self, weights: Any, threads: int) -> None:
        self.runtime = NativeRuntime(
            weights, threads=threads, num_tokens=LENGTH, max_rows=LENGTH, kv_dtype="f16"
        )

    def log_probs(self, tokens: NDArray[np.int32], level: Level) -> NDArray[np.float32]:
        """[L, V]."""
        pages = np.arange(LENGTH // self.runtime.page_size, dtype=np.int32)[None]
        starts = np.array([0, LENGTH], np.int32)
        batch = Batch(tokens, starts, np.zeros(1, np.int32), pages)
        logits = self.runtime.forward(batch, level, np.arange(LENGTH, dtype=np.int32))
        logits -= logits.max(axis=1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return logits


def sequences(path: Path, codec: TextCodec, count: int) -> NDArray[np.int32]:
    """[count, LENGTH] from the beginning of a text."""
    with path.open(encoding="utf-8") as file:
        ids = codec.encode(file.read(count * LENGTH * 16))
    count = min(count, len(ids) // LENGTH)
    return np.array(ids[: count * LENGTH], dtype=np.int32).reshape(count, LENGTH)


def compare(
    source: Model, model: Model, text: NDArray[np.int32], pairs: list[tuple[Level, Level]]
) -> dict[tuple[str, str], Sums]:
    """(level, level it is held to) -> sums; targets are held to the source ("f32")."""
    sums: dict[tuple[str, str], Sums] = {}
    for tokens in text:
        wanted = source.log_probs(tokens, F32_LEVEL)
        made: dict[str, NDArray[np.float32]] = {"f32": wanted}
        for target, draft in pairs:
            for level, held_to in ((target, "f32"), (draft, str(target))):
                if str(level) not in made:
                    made[str(level)] = model.log_probs(tokens, level)
                into = sums.setdefault((str(level), held_to), Sums())
                _add(into, made[str(level)], made[held_to], wanted, tokens)
        _add(sums.setdefault(("f32", "f32"), Sums()), wanted, wanted, wanted, tokens)
    return sums


def _add(
    sums: Sums,
    got: NDArray[np.float32],
    held_to: NDArray[np.float32],
    source: NDArray[np.float32],
    tokens: NDArray[np.int32],
) -> None:
    index = np.arange(LENGTH - 1)
    sums.nll.append(-got[index, tokens[1:]].astype(np.float64))
    sums.kl.append(np.einsum("mv,mv->m", np.exp(source), source - got, dtype=np.float64))
    sums.agrees.append(got.argmax(axis=1) == held_to.argmax(axis=1))


def _mean(parts: list[F64]) -> tuple[float, float]:
    """Mean and its standard error, sequences taken as the independent pieces."""
    means = np.array([p.mean() for p in parts])
    error = float(means.std(ddof=1) / np.sqrt(len(means))) if len(means) > 1 else float("nan")
    return float(means.mean()), error


def result_rows(
    args: argparse.Namespace, scheme: str, path: Path, text: str, sums: dict[tuple[str, str], Sums]
) -> Iterator[rows.Row]:
    """One row a level and metric; the spread is over sequences."""
    checkpoint = Checkpoint.open(path)
    for (level, held_to), found in sums.items():
        for metric, (value, error) in found.values().items():
            details = {
                "text": text,
                "scheme": scheme,
                "held_to": held_to,
                "standard_error": error,
                "tokens": sum(len(p) for p in found.nll),
                "calibration_tokens": args.tokens,
                "source_types": checkpoint.source.get("types"),
            }
            yield rows.Row(
                commit=machine.commit(),
                date=machine.now(),
                machine={"tier": args.tier},
                engine="halfbyte",
                version="0.1.0",
                model=args.name,
                format=f"{checkpoint.source['planes']} planes, group {checkpoint.group_size}",
                bytes=checkpoint.num_bytes,
                cascade=level,
                metric=metric,
                unit="",
                spread=rows.Spread.of([value]),
                details=details,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--name", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--text", action="append", required=True, help="NAME=FILE")
    parser.add_argument("--schemes", type=names, default=["rtn", "gptq"])
    parser.add_argument("--planes", type=int, choices=(4, 8), default=8)
    parser.add_argument("--group", type=int, default=32)
    parser.add_argument("--tokens", type=positive, default=16_384, help="of calibration")
    parser.add_argument("--sequences", type=positive, default=16, help="of each text")
    parser.add_argument("--threads", type=positive, default=2)
    parser.add_argument("--work", type=Path, required=True, help="where checkpoints are kept")
    parser.add_argument("--results", type=Path, default=rows.RESULTS / "quality" / "schemes.jsonl")
    args = parser.parse_args()
    weights = open_weights(args.model, dense=True)
    source = Model(weights, args.threads)
    args.tier = source.runtime.tier
    codec = TextCodec(weights, weights.config.vocab_size)
    targets = {8: "w8a16", 4: "w4a16"}
    pairs = [(Level.parse(targets[args.planes]), Level.parse("w4a8"))]
    for scheme in args.schemes:
        path = build(args, scheme, args.planes)
        model = Model(Checkpoint.open(path), args.threads)
        for named in args.text:
            name, _, file = named.partition("=")
            sums = compare(source, model, sequences(Path(file), codec, args.sequences), pairs)
            for (level, held_to), found in sums.items():
                shown = {m: f"{v:.4f}±{e:.4f}" for m, (v, e) in found.values().items()}
                print(scheme, name, level, "held to", held_to, shown, flush=True)
            rows.append(args.results, result_rows(args, scheme, path, name, sums))


if __name__ == "__main__":
    main()
