"""`quantize`: a model and options in, a checkpoint out; a run that was killed is taken up."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfbyte.calibration.job import Job, Progress, run_job
from halfbyte.calibration.passes import LayerPasses
from halfbyte.calibration.text import Amount, read_sequences, sample_sequences
from halfbyte.calibration.work import WorkDirectory
from halfbyte.checks import check_int, check_one_of
from halfbyte.config import GROUP_SIZES, Experts, ModelConfig
from halfbyte.errors import ArgumentError, reraise_machine_fault, told
from halfbyte.formats.names import expected_matrices
from halfbyte.formats.weights import Weights
from halfbyte.importers.cache import source_identity
from halfbyte.importers.convert import QUANTIZED_NOTE, check_group, open_source
from halfbyte.importers.resolve import is_checkpoint, locate
from halfbyte.importers.source import Source
from halfbyte.quantize.atom import Share, share_by_site
from halfbyte.quantize.scales import DEFAULT_SCALES, SCALE_FORMS, ScaleForm
from halfbyte.quantize.scheme import Grid, Scheme
from halfbyte.quantize.schemes import scheme_named, with_wide_inputs
from halfbyte.runtime.native import NativeRuntime
from halfbyte.runtime.protocol import LayerRuntime

Tell = Callable[[str], None]
_RECIPE = 4  # grows when a scheme changes its result: half-finished runs of others are left alone
_FLOAT = ("F32", "F16", "BF16")


@dataclass(frozen=True, slots=True)
class QuantizeOptions:
    """What the checkpoint depends on, and `threads`, on which it does not."""

    scheme: str = "gptq"
    planes: int = 8
    group: int = 32  # inputs per scale
    scales: ScaleForm = DEFAULT_SCALES
    # Share of every row's inputs at 8 bits whatever the level. None: none, but of `gptq` with 4
    # planes `four_bit_share`.
    wide: Share | None = None
    calibration: Path | None = None  # None: text sampled from the model
    amount: Amount = field(default_factory=Amount)
    seed: int = 0
    threads: int | None = None

    def __post_init__(self) -> None:
        check_one_of("planes", self.planes, (4, 8), "choose one")
        check_one_of("group", self.group, GROUP_SIZES, "choose one")
        check_one_of("scales", self.scales, SCALE_FORMS, "choose one")
        check_int("seed", self.seed, 0, 2**63 - 1, "choose one")


def quantize(
    src: str | Path,
    dest: Path | str,
    options: QuantizeOptions,
    *,
    restart: bool = False,
    progress: Progress = lambda name, done, total: None,
    tell: Tell = lambda message: None,
) -> Path:
    """Quantize `src` into the new checkpoint `dest`; `tell` hears what a user should know."""
    scheme = scheme_named(options.scheme)
    if options.planes == 4 and options.scheme == "gptq" and options.wide is None:
        options = replace(options, wide=four_bit_share(open_source(_model(src)).config))
    if options.wide:
        scheme = with_wide_inputs(scheme, options.wide)
    return quantize_by(scheme, src, dest, options, restart=restart, progress=progress, tell=tell)


def four_bit_share(config: ModelConfig) -> Share:
    """Wide inputs of `gptq` of 4 planes (docs/quantize.md, Evidence).

    At most the bits that Q4_K_M has: it falls back to larger formats where rows are narrow.
    """
    return 0.22 if config.hidden_size < 1024 else 0.0655


def check_scheme(scheme: Scheme, config: ModelConfig) -> None:
    """Raise ArgumentError where layers have parts that a scheme does not account for."""
    changes = scheme.fold or scheme.rewrite or scheme.reorder
    if not scheme.needs_calibration and changes is None:
        return
    for kind in config.layer_kinds:
        inner = kind.feed_forward
        got = ""
        if isinstance(inner, Experts):
            got = "experts"
        elif changes is not None:
            if kind.norms != "before":
                got = f"norms {kind.norms}"
            elif inner.bias or inner.activation == "clamped-swiglu" or kind.mixer.out_bias:
                got = "biases inside layers"
        if got:
            raise ArgumentError(
                "scheme",
                got=f"{scheme.name}, of a model with {got}",
                expected="a scheme for its layers",
                fix="use --scheme rtn" + ("" if got == "experts" else " or gptq"),
            )


def quantize_by(
    scheme: Scheme,
    src: str | Path,
    dest: Path | str,
    options: QuantizeOptions,
    *,
    restart: bool = False,
    progress: Progress = lambda name, done, total: None,
    tell: Tell = lambda message: None,
) -> Path:
    """`quantize` with a scheme of the caller's, whose settings `options.scheme` must name."""
    path = _model(src)
    source = open_source(path)
    check_group(source.config, options.group)
    check_scheme(scheme, source.config)
    settings = _settings(path, options, calibrated=scheme.needs_calibration)
    with WorkDirectory(Path(dest), settings, restart=restart) as work:
        tokens = passes = None
        if scheme.needs_calibration:
            tokens = _tokens(path, source, options, work, tell)
            length = tokens.shape[1]
            passes = LayerPasses(_runtimes(options.threads), length)
        grid = Grid(options.planes, options.group, scales=options.scales)
        job = Job(source, scheme, grid, _notes(source, options, tokens))
        return run_job(job, Path(dest), work, tokens, passes, progress)


def _model(src: str | Path) -> Path:
    """Where a model that can be quantized is."""
    path = locate(src)
    if is_checkpoint(path):
        fix = "name the model it was made of (a GGUF file, a Hugging Face directory or an alias)"
        raise ArgumentError("source", got=f"{src} (a checkpoint)", expected="a model", fix=fix)
    return path


def _tokens(
    path: Path, source: Source, options: QuantizeOptions, work: WorkDirectory, tell: Tell
) -> NDArray[np.int32]:
    kept = work.tokens()
    if kept is not None:
        tell(f"going on with the run in {work.path}")
        return kept
    if options.calibration is not None:
        tokens = read_sequences(options.calibration, source, options.amount)
    else:
        count = options.amount.sequences * options.amount.length
        tell(f"no --calibration file: the model writes {count} tokens to calibrate on")
        tokens = sample_sequences(
            path, source, options.amount, threads=options.threads, seed=options.seed
        )
    work.keep_tokens(tokens)
    return tokens


def _runtimes(threads: int | None) -> Callable[[Weights, int], LayerRuntime]:
    def make(weights: Weights, num_tokens: int) -> LayerRuntime:
        return NativeRuntime(
            weights, threads=threads, num_tokens=num_tokens, kv_dtype="f32", max_rows=num_tokens
        )

    return make


def _settings(path: Path, options: QuantizeOptions, *, calibrated: bool) -> dict[str, Any]:
    """Everything that the result depends on."""
    settings: dict[str, Any] = {
        "recipe": _RECIPE,
        "source": hashlib.sha256(source_identity(path).encode()).hexdigest(),
        "scheme": options.scheme,
        "planes": options.planes,
        "group": options.group,
        "scales": options.scales,
    }
    if options.wide:
        wide = options.wide
        settings["wide"] = dict(wide) if isinstance(wide, Mapping) else wide
    if calibrated:
        settings |= {"tokens": options.amount.tokens, "sequence": options.amount.length}
        if options.calibration is None:
            settings["seed"] = options.seed
        else:
            settings["calibration"] = _digest(options.calibration)
    return settings


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        reraise_machine_fault(f"calibration file {path}", error)
        raise ArgumentError(
            f"calibration file {path}",
            got=told(error),
            expected="readable UTF-8 text",
            fix="check the path and its permissions",
        ) from error


def _notes(
    source: Source, options: QuantizeOptions, tokens: NDArray[np.int32] | None
) -> dict[str, Any]:
    """What `source` in halfbyte.json says."""
    told = [options.scheme, f"{options.scales} scales"]
    if options.wide:
        shares = share_by_site(options.wide)
        each = ", ".join(f"{share:.3g} of {site}" for site, share in shares.items())
        differ = len(set(shares.values())) > 1
        alike = next(iter(shares.values()))
        told.append(f"wide inputs: {each}" if differ else f"{alike:.3g} of inputs wide")
    if tokens is not None:
        text = options.calibration.name if options.calibration else "text of the model's own"
        told.append(f"{tokens.size} tokens of {text}")
    method = f"quantized ({', '.join(told)})"
    notes = {**source.description, "planes": options.planes, "exact": False, "method": method}
    types = {source.type_of(name) for name, _ in expected_matrices(source.config)}
    if not types <= set(_FLOAT):
        notes["note"] = QUANTIZED_NOTE
    return notes
