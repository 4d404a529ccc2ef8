"""A whole training run: texts, features, fit, export, evaluation. Every part can be taken up again.

WORK/texts.jsonl      what the model wrote
WORK/features/*.npy   their features at the served level
WORK/state.pt         parameters, optimizer, step
DEST                  the quantized head, once all steps are done
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from halfbyte.api.llm import LLM
from halfbyte.config import Level
from halfbyte.errors import ArgumentError
from halfbyte.formats.draft_head import HeadConfig
from halfbyte.formats.partial import disk_errors
from halfbyte.formats.planes import dequantize
from halfbyte.formats.weights import Dense, Planes
from halfbyte.formats.writer import require_new
from halfbyte.importers.convert_head import write_head
from halfbyte.runtime.draft_head import scoring_matrix
from halfbyte.runtime.machine import choose_threads
from halfbyte.sampling.params import SamplingParams
from halfbyte.train.features import save_features
from halfbyte.train.fit import fit, frozen
from halfbyte.train.options import TrainOptions
from halfbyte.train.pieces import Pieces, frequent_ids
from halfbyte.train.texts import Text, append_texts, read_texts, write_texts
from halfbyte.train.torch_head import TorchHead

Progress = Callable[[str, int, int], None]
HELD_OUT = 20  # every so many-th text is kept for the evaluation
EVALUATED = 8  # prompts of it
EVALUATED_TOKENS = 96
TREE_NODES = (4, 8, 16)
GROUP = 32


@dataclass(frozen=True, slots=True)
class Trained:
    """How a run ended."""

    steps: int
    head: Path | None  # None: `seconds` ran out before the last step
    evaluation: dict[str, float]  # cascade -> tokens per target forward, on held-out prompts


def train(
    llm: LLM, dest: Path, work: Path, options: TrainOptions, progress: Progress | None = None
) -> Trained:
    """Train a head for `llm`'s model. `work` keeps what a stopped run needs to go on."""
    require_new(dest)
    with disk_errors(work):
        return _train(llm, dest, work, options, progress)


def _train(
    llm: LLM, dest: Path, work: Path, options: TrainOptions, progress: Progress | None
) -> Trained:
    config = head_config(llm, options)
    _claim(work, options.data_key(llm.model.name))
    texts = _texts(llm, work, options, progress)
    learnt, held_out = split(texts)
    ids = frequent_ids(learnt, config.model.vocab_size, config.scored)
    taps = _taps(llm, config)
    paths = _features(llm, work, Level.parse(options.level), taps, texts, progress)
    learnt_paths = [path for i, path in enumerate(paths) if not _is_held_out(i, len(texts))]
    hidden = config.model.hidden_size
    pieces = Pieces(
        learnt,
        learnt_paths,
        options.length,
        inputs=config.num_taps * hidden,
        hidden=hidden,
        seed=options.seed,
    )
    if len(pieces) < options.batch:
        raise ArgumentError(
            "batch",
            got=f"{options.batch}",
            expected=f"at most {len(pieces)}, the pieces of text there are",
            fix="ask for more --texts or a smaller --batch",
        )
    lent = frozen(*_lent(llm, config, ids))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        module = TorchHead(config)
    with _torch_threads(choose_threads(llm.model.options.threads)):
        steps = fit(module, lent, pieces, options, work / "state.pt", progress)
    if steps < options.steps:
        return Trained(steps, None, {})
    weights = TrainedWeights(config, module, ids)
    source = {"trained_on": llm.model.name, "options": asdict(options), "texts": len(learnt)}
    write_head(weights, dest, group=GROUP, source=source)
    return Trained(steps, dest, evaluate(llm, dest, options.level, held_out))


def head_config(llm: LLM, options: TrainOptions) -> HeadConfig:
    """A head for the model: its own shape of layer, every norm, the most frequent tokens."""
    shape = llm.model.runtime.config
    layer = replace(shape.only(0), tied_head=False)
    layer = layer.with_attention(qk_norm="none", bias=False, window=None)
    is_eagle3 = options.kind == "eagle3"
    return HeadConfig(
        kind=options.kind,
        model=layer,
        norms=("embed", "feature", "final") if is_eagle3 else ("embed", "feature", "attn", "final"),
        taps=_eagle3_taps(shape.num_layers) if is_eagle3 else (shape.num_layers,),
        draft_vocab=min(options.draft_vocab, shape.vocab_size),
    )


def evaluate(llm: LLM, head: Path, level: str, held_out: list[Text]) -> dict[str, float]:
    """Tokens a target forward on held-out prompts, greedy, beside what needs no training."""
    # Loaded anew: a model that was trained for keeps what the teacher reads, too.
    llm = LLM(
        llm.model.name,
        level,
        llm.model.options.threads,
        num_tokens=llm.model.options.num_tokens,
        max_batch=EVALUATED,
        tier=llm.model.options.tier,
    )
    prompts = [text.tokens[: text.prompt_len] for text in held_out[:EVALUATED]]
    params = SamplingParams(temperature=0.0, max_tokens=EVALUATED_TOKENS)
    written = json.dumps(str(head), ensure_ascii=False)
    stages = [(f"eagle:{written}", nodes) for nodes in TREE_NODES] + [("ngram", 4)]
    found = {}
    for stage, nodes in stages:
        cascade = f"{stage} > {level}"
        answers = llm.with_cascade(cascade, draft_length=nodes).generate(prompts, params)
        tokens = sum(len(a.token_ids) for a in answers)
        cycles = sum(a.statistics.cycles for a in answers)
        kind = stage.partition(":")[0]
        found[f"{kind} > {level}, {nodes} {'nodes' if kind == 'eagle' else 'tokens'}"] = (
            tokens / cycles if cycles else 0.0
        )
    return found


def split(texts: list[Text]) -> tuple[list[Text], list[Text]]:
    """Texts to learn from, and texts held out."""
    learnt = [t for i, t in enumerate(texts) if not _is_held_out(i, len(texts))]
    return learnt, [t for i, t in enumerate(texts) if _is_held_out(i, len(texts))]


def _is_held_out(index: int, count: int) -> bool:
    return index % min(HELD_OUT, count) == 0


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    """torch's threads are a setting of the process: put it back."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True, slots=True)
class TrainedWeights:
    """A trained module as `HeadWeights`."""

    config: HeadConfig
    module: TorchHead
    draft_ids: NDArray[np.int32] | None

    def matrix(self, name: str) -> Planes | Dense:
        """A dense matrix: [N, K]."""
        return Dense(self._array(name), "f32")

    def vector(self, name: str) -> NDArray[np.float32]:
        """A norm or bias: [n]."""
        return self._array(name)

    def _array(self, name: str) -> NDArray[np.float32]:
        values: NDArray[np.float32] = self.module.parameter_of(name).detach().numpy()
        return values


def _eagle3_taps(num_layers: int) -> tuple[int, ...]:
    """EAGLE-3's layers 2, L/2 and L - 3, kept inside small models."""
    return (min(2, num_layers), num_layers // 2, max(0, num_layers - 3))


def _taps(llm: LLM, config: HeadConfig) -> tuple[int, ...]:
    """What the head reads, and the final norm's output last: what its teacher reads."""
    layers = llm.model.runtime.config.num_layers
    taps = config.taps_of(layers)
    return taps if taps[-1] == layers else (*taps, layers)


def _claim(work: Path, key: str) -> None:
    """Make the work directory, or see that it belongs to the same run."""
    marker = work / "run.json"
    if marker.is_file():
        try:
            known: Any = json.loads(marker.read_text(encoding="utf-8"))
        except ValueError:
            known = None
        if known == {"data": key}:
            return
        raise ArgumentError(
            "work directory",
            got=f"{work}, of a run with other options",
            expected="a new one, or the options it was made with",
            fix="name another --work, or remove it",
        )
    (work / "features").mkdir(parents=True, exist_ok=True)
    marker.write_text(json.dumps({"data": key}), encoding="utf-8")


def _texts(llm: LLM, work: Path, options: TrainOptions, progress: Progress | None) -> list[Text]:
    path = work / "texts.jsonl"
    texts = read_texts(path)
    if 0 < len(texts) < options.texts:  # without a line cut short
        path.unlink()
        append_texts(path, texts)
    seed = options.seed
    while len(texts) < options.texts:
        # Batches have fixed seeds, so a run taken up again writes other texts, none twice.
        missing = options.texts - len(texts)
        for batch in write_texts(llm, missing, options.max_tokens, seed + len(texts)):
            usable = [text for text in batch if len(text.tokens) > text.prompt_len + 3]
            append_texts(path, usable)
            texts += usable
            if progress:
                progress("writing texts", min(len(texts), options.texts), options.texts)
        seed += 7919
        if seed - options.seed > 7919 * 20:
            raise ArgumentError(
                "model",
                got=f"{len(texts)} texts of more than a few tokens",
                expected=f"{options.texts}",
                fix="this model ends its answers at once: use an instruct model",
            )
    return texts[: options.texts]


def _features(
    llm: LLM,
    work: Path,
    level: Level,
    taps: tuple[int, ...],
    texts: list[Text],
    progress: Progress | None,
) -> list[Path]:
    paths = [work / "features" / f"{i:06d}.npy" for i in range(len(texts))]
    for i, (text, path) in enumerate(zip(texts, paths, strict=True)):
        if not path.exists():
            save_features(llm.model, level, taps, text, path)
        if progress:
            progress("features", i + 1, len(texts))
    return paths


def _lent(
    llm: LLM, config: HeadConfig, ids: NDArray[np.int32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The target's embedding and the rows of its head that are scored, dense."""
    weights = llm.model.weights
    assert weights is not None  # a model loaded by its path
    asked = _Asked(config, ids)
    return _dense(weights.matrix("embed")), _dense(scoring_matrix(asked, weights))


@dataclass(frozen=True, slots=True)
class _Asked:
    """As much of a head as says which rows it scores."""

    config: HeadConfig
    draft_ids: NDArray[np.int32] | None

    def matrix(self, name: str) -> Planes | Dense:
        raise KeyError(name)

    def vector(self, name: str) -> NDArray[np.float32]:
        raise KeyError(name)


def _dense(matrix: Planes | Dense) -> NDArray[np.float32]:
    if isinstance(matrix, Planes):
        return dequantize(matrix, 8)
    if matrix.dtype == "bf16":
        return (matrix.values.astype(np.uint32) << 16).view(np.float32)
    return matrix.values.astype(np.float32)
