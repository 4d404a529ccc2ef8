"""Committed KV is the target's own, and a slot past it is never read before it is rewritten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from halfbyte.config import Level
from halfbyte.formats.weights import Dense, Planes
from halfbyte.runtime.protocol import Batch, DraftRun, Runtime
from tests.exactness.driver import Driver, Request, committed_kv, sampling_of
from tests.exactness.plain import SAMPLERS, Outcome, outcome, prompt_of
from tests.support.runtimes import build, every_runtime, shared
from tests.support.tiny_models import DENSE_MODELS, MODELS, TinyWeights, tiny

W8A16, W4A8 = Level.parse("w8a16"), Level.parse("w4a8")
POISON = 130  # a token of no prompt, whose embedding makes every K and V it touches worthless


@every_runtime
def test_draft_kv_is_not_target_kv_until_the_verify_rewrites_it(kind: str) -> None:
    """Without this, comparing committed bytes would prove nothing."""
    runtime = shared(kind, "llama")
    prompt = prompt_of("llama", 12, 5)
    driver = Driver(runtime, W8A16)
    request = Request(prompt, 6)
    driver.run([request])
    target = committed_kv(runtime, request)
    table = np.array([request.pages], np.int32)
    pending = Batch(
        np.array([request.tokens[0]], np.int32),
        np.array([0, 1], np.int32),
        np.array([12], np.int32),
        table,
    )
    run = DraftRun(W4A8, np.array([4], np.int32))
    runtime.draft(pending, run, sampling_of([request], [13]))
    assert committed_kv(runtime, request) != target
    rows = Batch(
        np.array(request.tokens[:-1], np.int32),
        np.array([0, 5], np.int32),
        np.array([12], np.int32),
        table,
    )
    runtime.forward(rows, W8A16, np.zeros(1, np.int32))
    assert committed_kv(runtime, request) == target


class PoisonedDriver(Driver):
    """Before every step writes garbage to every slot that no committed position owns."""

    def step(self, live: Sequence[Request]) -> None:
        size = self.runtime.page_size
        for r in live:
            room = len(r.pages) * size - r.committed_len
            if room > 0:
                self._poison(r.pages, r.committed_len, room)
        for start in range(0, len(self.free), 8):
            pages = self.free[start : start + 8]
            self._poison(pages, 0, len(pages) * size)
        super().step(live)

    def _poison(self, pages: list[int], first: int, count: int) -> None:
        batch = Batch(
            tokens=np.full(count, POISON, np.int32),
            row_starts=np.array([0, count], np.int32),
            first_positions=np.array([first], np.int32),
            page_tables=np.array([pages], np.int32),
        )
        level = W8A16 if self.runtime.supports(W8A16) else self.target
        self.runtime.forward(batch, level, np.zeros(1, np.int32))


def _with_row(matrix: Planes | Dense, value: float) -> Planes | Dense:
    """The matrix with every scale, or value, of row POISON replaced (dense infinity: NaN)."""
    if isinstance(matrix, Dense):
        values = matrix.values.copy()
        values[POISON] = np.nan if value else 0
        return replace(matrix, values=values)
    scale = matrix.scale.copy()
    scale[POISON] = value
    offset = None if matrix.offset is None else matrix.offset.copy()
    if offset is not None:
        offset[POISON] = 0
    return replace(matrix, scale=scale, offset=offset)


def _poisonous(model: str) -> TinyWeights:
    """The model with a NaN (planes: infinite) embedding of POISON, which its head never chooses."""
    weights = tiny(model)
    embed = _with_row(weights.matrix("embed"), np.inf)
    # A logit of zero is never among the top 40 of SAMPLERS["filtered"].
    head = _with_row(weights.matrix("embed" if weights.config.tied_head else "head"), 0)
    config = replace(weights.config, tied_head=False)
    return replace(
        weights, config=config, matrices={**weights.matrices, "embed": embed, "head": head}
    )


def _decode(
    runtime: Runtime, driver: type[Driver], target: str, draft: str | None
) -> list[Outcome]:
    prompts = [[t % POISON for t in prompt_of("llama", n, n)] for n in (3, 16, 41)]
    lengths = (8, 3, 5)
    requests = [
        Request(p, 14, SAMPLERS["filtered"], draft_length=n if draft else 0, chunk=20)
        for p, n in zip(prompts, lengths, strict=True)
    ]
    levels = [Level.parse(x) for x in (target, draft or target)]
    driver(runtime, *levels).run(requests)
    return [outcome(runtime, r) for r in requests]


@every_runtime
@pytest.mark.parametrize(
    ("model", "target", "draft"),
    [
        ("llama", "w8a16", "w4a8"),
        ("mistral-window", "w8a8", "w4a8"),
        ("qwen2-bias-tied-offsets", "w4a16", "w4a4"),
        ("layers-sinks-experts", "w8a8", "w4a8"),
        ("layers-heads", "w8a16", "w4a8"),
        ("llama-f32", "f32", "f32"),
        ("mistral-f16", "f32", "f32"),
    ],
)
def test_rejected_and_free_slots_are_never_read(
    kind: str, model: str, target: str, draft: str
) -> None:
    weights = _poisonous(model)
    runtime = build(kind, weights, num_tokens=192, page_size=16)
    if model in DENSE_MODELS:
        _check_that_poison_is_nan(runtime)
    clean = _decode(build(kind, weights, num_tokens=192, page_size=16), Driver, target, None)
    assert all(POISON not in one.tokens for one in clean)
    assert _decode(runtime, PoisonedDriver, target, draft) == clean
    assert _decode(runtime, PoisonedDriver, target, None) == clean


def _check_that_poison_is_nan(runtime: Runtime) -> None:
    PoisonedDriver(runtime, Level.parse("f32"))._poison([3], 0, 16)
    keys, values = runtime.read_kv(runtime.config.num_layers - 1, 3)
    assert np.isnan(keys.view(np.float16)).all()
    assert np.isnan(values.view(np.float16)).all()


def test_models_for_every_family_are_here() -> None:
    families = {tiny(m).config.family for m in MODELS}
    assert families == {tiny(m).config.family for m in DENSE_MODELS}
    assert families == {"llama", "mistral", "qwen2", "qwen3"}
