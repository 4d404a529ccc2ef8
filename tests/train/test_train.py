"""Training on a tiny model: the module is the runtime's head, runs are resumable, τ rises."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from halfbyte.api.llm import LLM
from halfbyte.config import Level
from halfbyte.errors import ArgumentError, SourceError
from halfbyte.formats.draft_head import HeadCheckpoint, HeadConfig
from halfbyte.runtime.protocol import Batch
from halfbyte.sampling.params import SamplingParams
from tests.support.runtimes import build, prefix_batch, random_tokens
from tests.support.talking_model import write_talking_model
from tests.support.tiny_heads import TinyHead, attach, head_config
from tests.support.tiny_models import Kind, make

torch = pytest.importorskip("torch")

from halfbyte.formats.weights import Dense  # noqa: E402
from halfbyte.train import run  # noqa: E402
from halfbyte.train.options import TrainOptions  # noqa: E402
from halfbyte.train.pieces import frequent_ids  # noqa: E402
from halfbyte.train.run import train  # noqa: E402
from halfbyte.train.texts import Text, append_texts, read_texts  # noqa: E402
from halfbyte.train.torch_head import TorchHead  # noqa: E402

W8A16 = Level.parse("w8a16")
OPTIONS = TrainOptions(
    texts=12, max_tokens=24, draft_vocab=120, steps=20, batch=4, length=24, unrolls=2, rate=3e-3
)
KINDS = {
    "eagle": head_config(norms=("embed", "feature", "attn", "final"), fuse_bias=True),
    "eagle-bare": head_config(),
    "eagle3": head_config(kind="eagle3", norms=("embed", "feature", "final"), taps=(0, 1, 2)),
}


def _module(config: HeadConfig) -> TorchHead:
    torch.manual_seed(3)
    module = TorchHead(config)
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return module


@pytest.mark.parametrize("name", KINDS)
def test_the_module_is_the_head_that_runs_at_every_unroll(name: str) -> None:
    """Dense weights in both: what is trained is what drafts, refresh and tree rows alike."""
    config = KINDS[name]
    module = _module(config)
    matrices, vectors = {}, {}
    for tensor in module.names:
        values = module.parameter_of(tensor).detach().numpy()
        if values.ndim == 1:
            vectors[tensor] = values
        else:
            matrices[tensor] = Dense(values, "f32")
    target = make(replace(config.model, num_layers=2), Kind(dense="f32"))
    target.matrices["head"] = target.matrices["embed"]
    runtime = build("reference", target, num_tokens=256, kv_dtype="f32")
    head = attach(runtime, TinyHead(config, matrices, vectors), target)
    length, steps = 12, 3
    tokens = random_tokens(length, seed=2)
    width = config.num_taps * 64
    features = np.random.default_rng(0).standard_normal((length, width)).astype(np.float32)
    embedding = target.matrices["embed"].values.astype(np.float32)  # type: ignore[union-attr]
    outputs = module.unroll(
        torch.from_numpy(embedding[tokens])[None], torch.from_numpy(features)[None], steps
    )
    every = np.arange(length, dtype=np.int32)
    level = Level.parse("f32")
    first = head.forward(prefix_batch(tokens, 16), level, features, every, 5)
    _agree(outputs[0][0].detach().numpy(), embedding, first.tokens, first.logprobs)
    # Drafting from row 7 on: rows 8 and 9 are tree rows with guessed features.
    root, hidden = 7, first.hidden[7]
    for j in range(1, steps):
        paths = np.array([[*range(j)]], np.int32)
        batch = Batch(
            tokens[root + j : root + j + 1],
            np.array([0, 1], np.int32),
            np.array([root + 1], np.int32),
            np.arange(2, dtype=np.int32)[None],
            paths,
        )
        step = head.forward(batch, level, hidden[None], np.zeros(1, np.int32), 5)
        expected = outputs[j][0, root + j : root + j + 1].detach().numpy()
        _agree(expected, embedding, step.tokens, step.logprobs)
        hidden = step.hidden[0]


def _agree(normed: np.ndarray, head: np.ndarray, tokens: np.ndarray, logprobs: np.ndarray) -> None:
    logits = normed.astype(np.float64) @ head.T
    expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    got = np.take_along_axis(expected, tokens.astype(np.int64), axis=1)
    assert np.allclose(got, logprobs, atol=1e-4)
    assert np.allclose(expected.max(axis=1), logprobs[:, 0], atol=1e-4)


@pytest.fixture(autouse=True)
def _short_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "EVALUATED", 2)
    monkeypatch.setattr(run, "EVALUATED_TOKENS", 24)
    monkeypatch.setattr(run, "TREE_NODES", (8,))
    monkeypatch.setattr(run, "HELD_OUT", 6)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_talking_model(tmp_path_factory.mktemp("train") / "model")


def _llm(model: Path) -> LLM:
    return LLM(str(model), "w8a16", threads=1, num_tokens=4096, max_batch=8, prefix_cache=False)


@pytest.mark.parametrize("kind", ["eagle", "eagle3"])
def test_a_trained_head_is_accepted_more_than_one_that_is_not(
    model: Path, tmp_path: Path, kind: str
) -> None:
    taus = []
    for steps in (1, 80):
        options = TrainOptions(
            kind=kind,
            texts=20,
            max_tokens=32,
            draft_vocab=120,
            steps=steps,
            batch=8,
            length=32,
            unrolls=2,
            rate=5e-3,
        )
        trained = train(_llm(model), tmp_path / str(steps), tmp_path / f"{steps}.work", options)
        assert trained.head is not None
        taus.append(trained.evaluation["eagle > w8a16, 8 nodes"])
    assert taus[1] > taus[0] + 0.1
    assert taus[0] >= 1


def test_a_stopped_run_goes_on_and_ends_as_if_never_stopped(model: Path, tmp_path: Path) -> None:
    whole = train(_llm(model), tmp_path / "a", tmp_path / "a.work", OPTIONS)
    short = TrainOptions(**{**_fields(OPTIONS), "seconds": 1e-9})
    for _ in range(2):
        stopped = train(_llm(model), tmp_path / "b", tmp_path / "b.work", short)
        assert stopped.head is None
        assert not (tmp_path / "b").exists()
    again = train(_llm(model), tmp_path / "b", tmp_path / "b.work", OPTIONS)
    assert again.steps == whole.steps == OPTIONS.steps
    one, two = HeadCheckpoint.open(tmp_path / "a"), HeadCheckpoint.open(tmp_path / "b")
    assert (one.matrix("fuse").hi == two.matrix("fuse").hi).all()
    assert again.evaluation == whole.evaluation


def test_the_head_changes_no_output(model: Path, tmp_path: Path) -> None:
    llm = _llm(model)
    train(llm, tmp_path / "h", tmp_path / "w", OPTIONS)
    params = [SamplingParams(temperature=t, seed=4, max_tokens=30) for t in (0.0, 1.0)]
    for p in params:
        plain = llm.generate("hello there", p)[0]
        for middle in ("", "w4a8 > ", f"model:{model}@w4a8 > "):
            cascade = f"eagle:{tmp_path}/h > {middle}w8a16"
            got = llm.with_cascade(cascade, draft_length=6).generate("hello there", p)[0]
            assert got.token_ids == plain.token_ids
            assert got.logprobs == plain.logprobs
        offered = llm.with_cascade(f"auto | eagle:{tmp_path}/h > w8a16").generate("hello there", p)
        assert offered[0].token_ids == plain.token_ids
        assert offered[0].logprobs == plain.logprobs


def test_a_work_directory_of_other_options_is_refused(model: Path, tmp_path: Path) -> None:
    short = TrainOptions(**{**_fields(OPTIONS), "seconds": 1e-9})
    train(_llm(model), tmp_path / "h", tmp_path / "w", short)
    other = TrainOptions(**{**_fields(OPTIONS), "seed": 5})
    with pytest.raises(ArgumentError, match="other options"):
        train(_llm(model), tmp_path / "h", tmp_path / "w", other)
    (tmp_path / "w" / "state.pt").write_bytes(b"junk")
    with pytest.raises(SourceError, match="training state"):
        train(_llm(model), tmp_path / "h", tmp_path / "w", OPTIONS)


def test_texts_survive_a_line_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    append_texts(path, [Text([1, 2, 3], 1), Text([4, 5], 1)])
    with path.open("a") as file:
        file.write('{"tokens": [1, 2')
    assert read_texts(path) == [Text([1, 2, 3], 1), Text([4, 5], 1)]
    path.write_text('{"tokens"\n' + json.dumps({"tokens": [1], "prompt_len": 0}) + "\n")
    with pytest.raises(SourceError, match="line 1"):
        read_texts(path)


def test_the_most_frequent_answers_are_scored() -> None:
    texts = [Text([9, 9, 9, 5, 5, 7], 3), Text([1, 5, 6], 1)]
    assert frequent_ids(texts, 12, 3).tolist() == [5, 6, 7]
    assert frequent_ids(texts, 12, 5).tolist() == [0, 1, 5, 6, 7]


@pytest.mark.parametrize("change", [{"kind": "x"}, {"steps": 0}, {"rate": 0.0}, {"texts": 1.5}])
def test_impossible_options_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ArgumentError, match="expected"):
        TrainOptions(**{**_fields(OPTIONS), **change})


def _fields(options: TrainOptions) -> dict[str, object]:
    return {name: getattr(options, name) for name in options.__slots__}
