"""Draft heads: native against the twin, rows of trees, and the features they read."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from halfbyte.config import Level
from halfbyte.errors import ArgumentError, ModelError
from halfbyte.runtime.protocol import Batch, Runtime
from tests.support.runtimes import build, every_runtime, every_tier, prefix_batch, random_tokens
from tests.support.tiny_heads import HEADS, attach, head_config, make_head
from tests.support.tiny_models import CONFIGS, tiny

F32 = NDArray[np.float32]
W8A16, W4A8 = Level.parse("w8a16"), Level.parse("w4a8")
every_head = pytest.mark.parametrize("name", HEADS)


def _features(config_name: str, rows: int, seed: int = 0) -> F32:
    config = HEADS[config_name]
    width = config.num_taps * config.model.hidden_size
    return np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)


def _runtime(kind: str, **options: int) -> Runtime:
    return build(kind, tiny("llama"), num_tokens=512, **options)


@every_tier
@every_head
@pytest.mark.parametrize("level", ["w8a16", "w8a8", "w4a8"])
def test_native_heads_agree_with_the_twin(kind: str, name: str, level: str) -> None:
    weights = make_head(HEADS[name])
    tokens, rows = random_tokens(37), np.array([36, 3, 20], np.int32)
    features = _features(name, 37)
    steps = []
    for which in ("reference", kind):
        head = attach(_runtime(which), weights)
        batch = prefix_batch(tokens, 16)
        steps.append(head.forward(batch, Level.parse(level), features, rows, 5))
    expected, got = steps
    # A last bit can flip an activation code (docs/exactness.md), so closeness depends on the level.
    tolerance = 2e-4 if level == "w8a16" else 3e-2
    size = np.abs(expected.hidden).max()
    assert np.abs(got.hidden - expected.hidden).max() < tolerance * size
    assert np.allclose(got.logprobs, expected.logprobs, atol=max(tolerance, 1e-3))
    assert (got.tokens[:, 0] == expected.tokens[:, 0]).all() or level != "w8a16"
    vocab = weights.config.model.vocab_size
    assert got.tokens.min() >= 0
    assert got.tokens.max() < vocab
    if weights.draft_ids is not None:
        assert set(got.tokens.ravel().tolist()) <= set(weights.draft_ids.tolist())


@every_runtime
@every_head
def test_a_head_s_rows_do_not_depend_on_company(kind: str, name: str) -> None:
    """Together, token by token, and as rows of a tree after a shared prefix: the same bits."""
    head = attach(_runtime(kind), make_head(HEADS[name]))
    tokens, features = random_tokens(20), _features(name, 20)
    every = np.arange(20, dtype=np.int32)
    together = head.forward(prefix_batch(tokens, 16), W8A16, features, every, 4)
    one = np.zeros(1, np.int32)
    for i in range(20):
        batch = prefix_batch(tokens[i : i + 1], 16, i)
        alone = head.forward(batch, W8A16, features[i : i + 1], one, 4)
        assert alone.hidden.tobytes() == together.hidden[i : i + 1].tobytes()
        assert alone.logprobs.tobytes() == together.logprobs[i : i + 1].tobytes()
    # Rows 16 .. 19 again as a chain of a tree whose slots lie apart.
    slots = [3, 0, 9, 5]
    paths = np.array([slots[: i + 1] + [-1] * (3 - i) for i in range(4)], np.int32)
    tree = Batch(
        tokens[16:],
        np.array([0, 4], np.int32),
        np.array([16], np.int32),
        np.arange(3, dtype=np.int32)[None],
        paths,
    )
    got = head.forward(tree, W8A16, features[16:], np.arange(4, dtype=np.int32), 4)
    assert got.hidden.tobytes() == together.hidden[16:].tobytes()


@every_runtime
def test_a_wide_head_takes_its_own_hidden_state_for_features(kind: str) -> None:
    head = attach(_runtime(kind), make_head(HEADS["eagle3"]))
    features = _features("eagle3", 6)
    rows = np.arange(6, dtype=np.int32)
    first = head.forward(prefix_batch(random_tokens(6), 16), W8A16, features, rows, 3)
    again = head.forward(prefix_batch(random_tokens(6), 16), W8A16, first.hidden, rows, 3)
    assert again.hidden.shape == first.hidden.shape
    assert (again.hidden != first.hidden).any()


@every_runtime
def test_logprobs_are_those_of_the_tokens_scored(kind: str) -> None:
    head = attach(_runtime(kind), make_head(HEADS["eagle-reduced"]))
    features = _features("eagle-reduced", 3)
    batch = prefix_batch(random_tokens(3), 16)
    step = head.forward(batch, W8A16, features, np.arange(3, dtype=np.int32), 40)
    assert step.tokens.shape == (3, 40)
    assert np.allclose(np.exp(step.logprobs.astype(np.float64)).sum(axis=1), 1, atol=1e-5)
    assert (np.diff(step.logprobs, axis=1) <= 0).all()


@every_runtime
def test_kept_features_are_what_the_head_of_the_model_reads(kind: str) -> None:
    """Of every row, whatever the chunks; tap 0 is the embedding, the last tap the final norm."""
    tokens = random_tokens(40)
    kept = []
    for chunk in (40, 13, 1):
        runtime = _runtime(kind)
        runtime.keep_features((0, 1, 2))
        runtime.keep_features((0, 1, 2))
        for start in range(0, 40, chunk):
            batch = prefix_batch(tokens[start : start + chunk], 16, start)
            runtime.forward(batch, W8A16, np.empty(0, np.int32))
        kept.append(
            runtime.read_features(np.arange(3, dtype=np.int32), np.arange(40, dtype=np.int32))
        )
    assert kept[0].shape == (40, 3 * 64)
    assert kept[0].tobytes() == kept[1].tobytes() == kept[2].tobytes()
    twin = _runtime("reference")
    twin.keep_features((0, 1, 2))
    twin.forward(prefix_batch(tokens, 16), W8A16, np.empty(0, np.int32))
    expected = twin.read_features(np.arange(3, dtype=np.int32), np.arange(40, dtype=np.int32))
    assert (kept[0][:, :64] == expected[:, :64]).all()
    assert np.allclose(kept[0], expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    norm = tiny("llama").vector("norm.final")
    assert np.allclose(np.sqrt(((expected[:, 128:] / norm) ** 2).mean(axis=1)), 1, atol=1e-3)


@every_runtime
def test_features_move_with_their_kv(kind: str) -> None:
    runtime = _runtime(kind)
    runtime.keep_features((2,))
    pages = np.array([4, 1], np.int32)
    tokens = random_tokens(20)
    runtime.forward(
        Batch(tokens, np.array([0, 20], np.int32), np.zeros(1, np.int32), pages[None]),
        W8A16,
        np.empty(0, np.int32),
    )
    before = runtime.read_features(pages, np.arange(20, dtype=np.int32))
    runtime.copy_kv(pages, np.array([9, 17], np.int32), np.array([8, 9], np.int32))
    after = runtime.read_features(pages, np.array([8, 9], np.int32))
    assert (after == before[[9, 17]]).all()


@every_runtime
def test_features_do_not_change_a_logit(kind: str) -> None:
    tokens, rows = random_tokens(18), np.arange(18, dtype=np.int32)
    plain = _runtime(kind).forward(prefix_batch(tokens, 16), W4A8, rows)
    keeping = _runtime(kind)
    keeping.keep_features((1, 2))
    assert keeping.forward(prefix_batch(tokens, 16), W4A8, rows).tobytes() == plain.tobytes()


@every_runtime
def test_heads_that_do_not_fit_are_refused(kind: str) -> None:
    runtime = _runtime(kind)
    other = head_config("vocabulary")
    with pytest.raises(ModelError, match="vocab_size"):
        attach(runtime, make_head(other), tiny("llama"))
    deep = head_config(kind="eagle3", norms=("embed", "feature"), taps=(0, 3), own_head=True)
    with pytest.raises(ModelError, match="taps"):
        attach(runtime, make_head(deep))
    attach(runtime, make_head(HEADS["eagle"]))
    with pytest.raises(ArgumentError, match="one set for all draft heads"):
        attach(runtime, make_head(HEADS["eagle3"]))


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "medusa"},
        {"model": CONFIGS["llama"]},
        {"norms": ("embed", "embed")},
        {"kind": "eagle3"},
        {"taps": (1, 2)},
        {"taps": (-1,)},
        {"draft_vocab": 132},
        {"draft_vocab": 0},
    ],
)
def test_impossible_heads_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ModelError, match="draft head"):
        head_config(**change)


@every_tier
def test_a_head_runs_no_plain_forward(kind: str) -> None:
    head = attach(_runtime(kind), make_head(HEADS["eagle"]))
    with pytest.raises(ValueError, match="forward_best only"):
        head._model.forward(  # type: ignore[attr-defined]
            Batch(
                np.zeros(1, np.int32),
                np.array([0, 1], np.int32),
                np.zeros(1, np.int32),
                np.zeros((1, 1), np.int32),
            ),
            (8, 16, 8),
            np.zeros(1, np.int32),
        )
