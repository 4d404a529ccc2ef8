"""Draft heads of every quality beside tiny targets, and beside another model before a target."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from halfbyte.cascade.cascade import Cascade
from halfbyte.cascade.stages import Eagle, Model
from halfbyte.config import Level
from halfbyte.formats.draft_head import HeadConfig
from halfbyte.proposers.build import Proposers
from halfbyte.runtime.draft_head import DraftHead, HeadOutput
from halfbyte.runtime.protocol import Batch, Runtime
from tests.exactness.runs import coarser, runtime_of
from tests.support.proposers import model_runner
from tests.support.runtimes import build
from tests.support.tiny_heads import HEADS, TinyHead, attach, make_head
from tests.support.tiny_models import tiny

STAGE = Model("m", Cascade.parse("w4a8").target)


class Oracle:
    """A head that is often right: the target itself at w4a8, a token behind.

    A head's row p has the token of position p + 1, so this one reads the text without its first
    token. Attention is relative, so only what that token meant is lost.
    """

    def __init__(self, kind: str, target: Runtime) -> None:
        self._model = build(kind, tiny("llama"), num_tokens=1536, max_rows=48)
        self.scratch_pages = range(target.num_pages, self._model.num_pages)
        self.config: HeadConfig = HEADS["eagle"]
        self.level = Level.parse("w4a8")
        self.page_size, self.max_rows = target.page_size, 48
        target.keep_features((2,))

    def forward(
        self,
        batch: Batch,
        level: Level,
        features: NDArray[np.float32],
        rows: NDArray[np.int32],
        k: int,
    ) -> HeadOutput:
        assert len(features) == len(batch.tokens)
        logits = self._model.forward(batch, level, rows).astype(np.float64)
        logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        best = np.argsort(-logprobs, axis=1, kind="stable")[:, :k]
        top = np.take_along_axis(logprobs, best, axis=1).astype(np.float32)
        return HeadOutput(best.astype(np.int32), top, np.zeros((len(rows), 64), np.float32))

    def weight_bytes(self, level: Level) -> int:
        return self._model.weight_bytes(level)


def head_of(name: str, kind: str, runtime: Runtime) -> DraftHead:
    if name == "oracle":
        return Oracle(kind, runtime)
    return attach(runtime, weights_of(name))


def weights_of(name: str) -> TinyHead:
    if name == "random":
        return make_head(HEADS["eagle"], seed=9)
    if name == "adversarial":  # huge logits: always sure, always of the wrong thing
        return make_head(HEADS["eagle-normed"], seed=4, scale=1e4)
    if name == "broken":  # not a number is in every row
        weights = make_head(HEADS["eagle"])
        nan = {k: np.full_like(v, np.nan) for k, v in weights.vectors.items()}
        return replace(weights, vectors=nan)
    return make_head(HEADS[name])


class World:
    """A target, another model with a head beside it, and the proposers over them."""

    def __init__(self, kind: str, head: str) -> None:
        weights = coarser()
        self.target = runtime_of(kind)
        self.model = build(kind, weights, num_tokens=512)
        self.moves = 0
        self.model.copy_kv = self._counting(self.model.copy_kv)  # type: ignore[method-assign]
        self.runner = model_runner(self.model, STAGE)
        self.heads: list[DraftHead] = []

        def open_head(stage: Eagle, judge: Model | None) -> DraftHead:
            beside, own = (self.model, weights) if judge == STAGE else (self.target, None)
            if head == "oracle":
                self.heads.append(Oracle(kind, beside))
            else:
                self.heads.append(attach(beside, weights_of(head), own))
            return self.heads[-1]

        self.source = Proposers(self.target, open_model=lambda _: self.runner, open_head=open_head)

    def _counting(self, copy):  # type: ignore[no-untyped-def]
        def counted(*arguments):  # type: ignore[no-untyped-def]
            self.moves += 1
            copy(*arguments)

        return counted
