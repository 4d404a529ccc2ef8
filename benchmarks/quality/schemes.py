"""How good both levels of a checkpoint are, scheme by scheme: `results/quality/schemes.jsonl`.

    python -m benchmarks.quality --name NAME --model SRC --calibration c4.txt \
        --text wiki=wiki.txt --text maths=gsm8k.jsonl --schemes rtn,gptq --work DIR

Every text is cut into sequences of 512 tokens (teacher-forced). Against the source at `f32`: the
negative log-likelihood of the target levels, by how much it exceeds the source's, the mean KL
divergence, top-1 agreement. Against its target: the agreement of a draft level, alpha. `--levels
w4a4` alone needs no source.

`gptq@W` weighs 8-bit errors by W (quantize/gptq.py), `gptq:SHARE` keeps that share of inputs at 8
bits (`--wide`), `gptq:default` those that `halfbyte quantize --planes 4` does (--group and --scales
are not set by it). `--file NAME=MODEL` scores a GGUF file that another program made, at the values
it stands for. Checkpoints and the source's scores stay in `--work`.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import machine, rows
from benchmarks.measure.arguments import names, positive
from benchmarks.measure.occasion import Occasion, Subject
from benchmarks.quality.teacher_forced import (
    F32_LEVEL,
    SOURCE,
    Held,
    KeptScores,
    Model,
    Sums,
    compare,
    mean,
    sequences,
)
from halfbyte.calibration.quantize import QuantizeOptions, four_bit_share, quantize_by
from halfbyte.calibration.text import Amount
from halfbyte.config import Level, ModelConfig
from halfbyte.errors import ArgumentError
from halfbyte.evaluate.provenance import now
from halfbyte.formats.checkpoint import Checkpoint
from halfbyte.formats.names import expected_matrices
from halfbyte.importers.cache import source_identity
from halfbyte.importers.gguf_header import parse_header
from halfbyte.importers.resolve import locate, open_weights
from halfbyte.quantize.atom import Share
from halfbyte.quantize.gptq import Gptq
from halfbyte.quantize.scales import DEFAULT_SCALES, SCALE_FORMS
from halfbyte.quantize.scheme import Scheme
from halfbyte.quantize.schemes import scheme_named, with_wide_inputs
from halfbyte.text.codec import TextCodec

# Targets before the drafts that are held to them.
_HELD = {
    8: (("w8a16", SOURCE), ("w4a16", SOURCE), ("w4a8", "w8a16"), ("w4a4", "w4a16")),
    4: (("w4a16", SOURCE), ("w4a8", "w4a16"), ("w4a4", "w4a16")),
}


def wide_of(text: str, config: ModelConfig) -> Share | None:
    """What stands behind the colon of a scheme."""
    _, _, share = text.partition(":")
    if share == "default":
        return four_bit_share(config)
    return float(share) if share else None


def scheme_of(text: str, wide: Share | None) -> Scheme:
    """A scheme by name; `gptq@64` sets what 8-bit errors weigh; wide inputs."""
    if wide is not None:
        return with_wide_inputs(scheme_of(text.partition(":")[0], None), wide)
    name, _, weight = text.partition("@")
    if not weight:
        return scheme_named(name)
    if name != "gptq":
        raise ArgumentError("scheme", got=text, expected="gptq@WEIGHT", fix="drop the weight")
    return Scheme(text, Gptq(lo_weight=float(weight)))


def build(args: argparse.Namespace, text: str) -> Path:
    """The checkpoint of a scheme, made unless it is there."""
    kind = f"{args.planes}p-g{args.group}-{args.scales}"
    dest: Path = args.work / f"{args.name}-{text}-{kind}-{args.tokens}"
    if not dest.exists():
        wide = wide_of(text, args.source.config)
        options = QuantizeOptions(
            text.partition(":")[0],
            args.planes,
            args.group,
            args.scales,
            wide,
            calibration=args.calibration,
            amount=Amount(args.tokens),
            threads=args.threads,
        )
        quantize_by(scheme_of(text, wide), args.model, dest, options, tell=print)
    return dest


def score(
    args: argparse.Namespace,
    scheme: str,
    facts: Mapping[str, Any],
    model: Model,
    held: tuple[Held, ...],
) -> None:
    """Print and keep the rows of one model over every text."""
    codec = TextCodec(args.source, args.source.config.vocab_size)
    for named in args.text:
        name, _, file = named.partition("=")
        text = sequences(Path(file), codec, args.sequences)
        sums = compare(args.scores, model, text, held)
        for each, found in sums.items():
            shown = {
                metric: "{:.5f} ± {:.5f}".format(*mean(values))
                for metric, values in found.sequences().items()
            }
            print(scheme, name, each.level, "held to", each.to, shown, flush=True)
        details = {"scheme": scheme, "text": name, **facts}
        rows.keep(args.results, result_rows(args, details, sums))


def weights_of(config: ModelConfig) -> int:
    """Weights in all matrices."""
    return sum(rows * inputs for _, (rows, inputs) in expected_matrices(config))


def result_rows(
    args: argparse.Namespace, details: Mapping[str, Any], sums: Mapping[Held, Sums]
) -> Iterator[rows.Row]:
    """One row per level and metric: the spread is over sequences, the mean beside it."""
    occasion = Occasion(machine.commit(), now(), {"tier": args.tier}, args.name)
    for each, found in sums.items():
        for metric, values in found.sequences().items():
            value, error = mean(values)
            told = {"held_to": each.to, "tokens": found.tokens, "mean": value}
            yield occasion.row(
                Subject.ours(details["format"], details["bytes"], str(each.level)),
                metric,
                "",
                values,
                details={
                    **{k: v for k, v in details.items() if k not in ("format", "bytes")},
                    **told,
                    "standard_error": error,
                    "sequences": values,
                },
            )


def main() -> None:
    args = _parse()
    args.source = open_weights(args.model, dense=True)
    identity = hashlib.sha256(source_identity(locate(args.model)).encode()).hexdigest()[:12]
    args.scores = KeptScores(
        args.work / f"{args.name}-source-{identity}", lambda: Model(args.source, args.threads)
    )
    for scheme in args.schemes:
        checkpoint = Checkpoint.open(build(args, scheme))
        model = Model(checkpoint, args.threads)
        args.tier = model.runtime.tier
        planes = int(checkpoint.source["planes"])
        facts = {
            "format": ", ".join(
                [
                    f"{planes} planes, group {checkpoint.group_size}",
                    *([args.scales] if args.scales != "f16" else []),
                ]
            ),
            "bytes": checkpoint.num_bytes,
            "weights": weights_of(checkpoint.config),
            "method": checkpoint.source.get("method"),
            "source_types": checkpoint.source.get("types"),
        }
        held = tuple(
            Held(Level.parse(level), to)
            for level, to in _HELD[planes]
            if not args.levels or level in args.levels
        )
        score(args, scheme, facts, model, held)
        args.scores.release()
    for named in args.file:
        name, _, path = named.partition("=")
        weights = open_weights(path, dense=True)
        model = Model(weights, args.threads)
        args.tier = model.runtime.tier
        stored = parse_header(Path(path), np.memmap(path, dtype=np.uint8, mode="r")).tensors
        facts = {
            "format": name,
            "bytes": sum(tensor.end - tensor.begin for tensor in stored.values()),
            "weights": weights_of(weights.config),
        }
        score(args, name, facts, model, (Held(F32_LEVEL, SOURCE),))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--name", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--text", action="append", required=True, help="NAME=FILE")
    parser.add_argument("--schemes", type=names, default=[])
    parser.add_argument("--levels", type=names, default=[], help="of those scored; default: all")
    parser.add_argument("--file", action="append", default=[], help="NAME=MODEL; may be repeated")
    parser.add_argument("--planes", type=int, choices=(4, 8), default=8)
    parser.add_argument("--group", type=int, default=32)
    parser.add_argument("--scales", choices=SCALE_FORMS, default=DEFAULT_SCALES)
    parser.add_argument("--tokens", type=positive, default=16_384, help="of calibration")
    parser.add_argument("--sequences", type=positive, default=16, help="of each text")
    parser.add_argument("--threads", type=positive, default=2)
    parser.add_argument("--work", type=Path, required=True, help="checkpoints, source's scores")
    parser.add_argument("--results", type=Path, default=rows.RESULTS / "quality" / "schemes.jsonl")
    return parser.parse_args()
