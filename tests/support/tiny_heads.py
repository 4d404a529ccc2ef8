"""Random draft heads for the models of `tiny_models`: every kind, with and without norms."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from halfbyte.formats.draft_head import HeadConfig, head_tensors
from halfbyte.formats.weights import Dense, Planes, Weights
from halfbyte.runtime.draft_head import DraftHead
from halfbyte.runtime.native import NativeRuntime
from halfbyte.runtime.native_head import NativeHead
from halfbyte.runtime.protocol import Runtime
from halfbyte.runtime.reference import ReferenceRuntime
from halfbyte.runtime.reference_head import ReferenceHead
from tests.support.tiny_models import CONFIGS, Kind, planes_of, tiny

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class TinyHead:
    """`HeadWeights` held in dictionaries."""

    config: HeadConfig
    matrices: dict[str, Planes | Dense]
    vectors: dict[str, F32]
    draft_ids: NDArray[np.int32] | None = None

    def matrix(self, name: str) -> Planes | Dense:
        return self.matrices[name]

    def vector(self, name: str) -> F32:
        return self.vectors[name]


def head_config(target: str = "llama", **changes: object) -> HeadConfig:
    model = replace(CONFIGS[target], num_layers=1, tied_head=False).with_attention(qk_norm="none")
    return HeadConfig(**({"kind": "eagle", "model": model} | changes))  # type: ignore[arg-type]


HEADS = {
    "eagle": head_config(fuse_bias=True),
    "eagle-normed": head_config(norms=("embed", "feature", "attn", "final")),
    "eagle-reduced": head_config(draft_vocab=40, norms=("feature",)),
    "eagle3": head_config(
        kind="eagle3",
        norms=("embed", "feature", "final"),
        taps=(0, 1, 2),
        draft_vocab=50,
        own_head=True,
    ),
    "eagle3-one-tap": head_config(
        kind="eagle3", norms=("embed", "feature"), taps=(1,), own_head=True
    ),
}


def make_head(config: HeadConfig, seed: int = 0, *, scale: float = 1.0) -> TinyHead:
    """Random weights; `scale` multiplies every matrix."""
    rng = np.random.default_rng(seed)
    matrices: dict[str, Planes | Dense] = {}
    vectors: dict[str, F32] = {}
    for name, shape in head_tensors(config):
        if len(shape) == 1:
            centre = 0.0 if "bias" in name else 1.0
            vectors[name] = (centre + 0.1 * rng.standard_normal(shape)).astype(np.float32)
        else:
            values = rng.standard_normal(shape).astype(np.float32) * np.float32(
                scale / np.sqrt(shape[1])
            )
            matrices[name] = planes_of(values, Kind(), rng)
    ids = None
    if config.draft_vocab is not None:
        vocab = config.model.vocab_size
        ids = np.sort(rng.permutation(vocab)[: config.draft_vocab]).astype(np.int32)
    return TinyHead(config, matrices, vectors, ids)


def attach(
    runtime: Runtime, weights: TinyHead, target: Weights | None = None, **options: int
) -> DraftHead:
    """The head beside a runtime of its target (`llama` of tiny_models unless given)."""
    target = target or tiny("llama")
    if isinstance(runtime, ReferenceRuntime):
        return ReferenceHead(weights, runtime, target, **options)
    assert isinstance(runtime, NativeRuntime)
    return NativeHead(weights, runtime, target, **options)
