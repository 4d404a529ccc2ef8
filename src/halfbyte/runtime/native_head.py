"""A draft head on the CPU core: a model of one layer with a features input, no second runtime."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from halfbyte import _native
from halfbyte.config import Level
from halfbyte.errors import ArgumentError
from halfbyte.formats.draft_head import HeadWeights
from halfbyte.formats.weights import Weights
from halfbyte.runtime.draft_head import F32, HeadOutput, check_target, scoring_matrix
from halfbyte.runtime.native import NativeRuntime
from halfbyte.runtime.native_load import put_matrix
from halfbyte.runtime.native_shape import CoreShape
from halfbyte.runtime.protocol import Batch

_OUTER = {"embed": "embed_norm", "feature": "feature_norm", "final": "final_norm"}


class NativeHead:
    """A `runtime.draft_head.DraftHead` beside a `NativeRuntime`, whose embedding it shares."""

    def __init__(
        self,
        weights: HeadWeights,
        target: NativeRuntime,
        target_weights: Weights,
        *,
        scratch_pages: int = 256,
        max_rows: int = 512,
    ) -> None:
        """Tells the target to keep the features it reads. Untouched pages cost no memory."""
        config = weights.config
        taps = check_target(config, target.config)
        shape = config.model
        self.config: Final = config
        self._ids = weights.draft_ids
        self.page_size: Final = target.page_size
        self.scratch_pages: Final = range(target.num_pages, target.num_pages + scratch_pages)
        self.max_rows: Final = max_rows
        core = replace(
            CoreShape.of(shape),
            vocab=config.scored,
            order=[0],
            tied_head=False,
            features=len(taps) * shape.hidden_size,
            embedding_rows=shape.vocab_size,
            wide=config.is_eagle3,
        )
        self._model = _native.NativeModel(core, target.tier, target.threads, max_rows)
        shares_head = not config.own_head and self._ids is None
        self._model.share(target.core, shares_head)
        if not shares_head:
            put_matrix(self._model, "head", 0, [scoring_matrix(weights, target_weights)])
        _load(self._model, weights)
        self._model.allocate_kv(self.scratch_pages.stop, target.page_size, target.kv_dtype)
        target.keep_features(taps)

    @property
    def level(self) -> Level:
        """The level to run it at."""
        return Level(8 if self._model.has_lo else 4, 8)

    def forward(
        self, batch: Batch, level: Level, features: F32, rows: NDArray[np.int32], k: int
    ) -> HeadOutput:
        """One native call."""
        tokens, logprobs, hidden = self._model.forward_best(
            batch, _bits(level), rows, features, min(k, self.config.scored)
        )
        return HeadOutput(tokens if self._ids is None else self._ids[tokens], logprobs, hidden)

    def weight_bytes(self, level: Level) -> int:
        """Bytes of weights one forward reads."""
        return self._model.bytes_read(_bits(level))


def _bits(level: Level) -> tuple[int, int, int]:
    if level.weight_bits == 32:
        raise ArgumentError(
            "draft head level", got="f32", expected="a level of planes", fix="use w8a8 or w4a8"
        )
    return level.weight_bits, level.act_bits, level.head_bits or level.weight_bits


def _load(model: _native.NativeModel, weights: HeadWeights) -> None:
    config, at = weights.config, "layers.0"
    put_matrix(model, "fuse", 0, [weights.matrix("fuse")])
    if config.fuse_bias:
        model.set_vector("fuse_bias", 0, weights.vector("fuse.bias"))
    for norm, slot in _OUTER.items():
        if norm in config.norms:
            model.set_vector(slot, 0, weights.vector(f"norm.{norm}"))
    if "attn" in config.norms:
        model.set_vector("attn_norm", 0, weights.vector(f"{at}.norm.attn"))
    model.set_vector("mlp_norm", 0, weights.vector(f"{at}.norm.mlp"))
    put_matrix(model, "qkv", 0, [weights.matrix(f"{at}.attn.{x}") for x in "qkv"])
    put_matrix(model, "o", 0, [weights.matrix(f"{at}.attn.o")])
    put_matrix(model, "gate_up", 0, [weights.matrix(f"{at}.mlp.{x}") for x in ("gate", "up")])
    put_matrix(model, "down", 0, [weights.matrix(f"{at}.mlp.down")])
    if config.model.attention.bias:
        bias = np.concatenate([weights.vector(f"{at}.attn.{x}.bias") for x in "qkv"])
        model.set_vector("qkv_bias", 0, bias)
