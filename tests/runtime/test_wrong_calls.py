"""Wrong calls of the native module raise; `wrong_calls` makes them in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from halfbyte import _native
from halfbyte.runtime.native_shape import CoreShape
from halfbyte.runtime.protocol import Batch
from tests.support.tiny_models import tiny


def _run(seed: int, count: int, seconds: float) -> None:
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.runtime.wrong_calls"]
    ended = subprocess.run(
        [*command, str(seed), str(count)], capture_output=True, timeout=seconds, text=True
    )
    assert ended.returncode == 0, ended.stderr[-3000:]


@pytest.mark.parametrize("seed", [1, 2])
def test_wrong_calls_end_in_an_exception_or_an_answer(seed: int) -> None:
    _run(seed, 200, 300)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 20))
def test_many_wrong_calls_end_in_an_exception_or_an_answer(seed: int) -> None:
    _run(seed, 20_000, 3600)


def _model() -> _native.NativeModel:
    shape = CoreShape.of(tiny("llama").config)
    return _native.NativeModel(shape, "scalar", 1, 8)


ZERO = np.zeros(1, np.int32)


@pytest.mark.parametrize(
    "call",
    [
        lambda: _model().copy_kv(ZERO, ZERO, ZERO),
        lambda: _model().bytes_read((4, 16, 4), 0),
        lambda: _model().read_features(ZERO, ZERO),
        lambda: _model().keep_features([0]),
        lambda: _model().reduce_head(ZERO),
        lambda: _model().allocate_kv(1, 16, "f16"),
        lambda: _model().forward(Batch(ZERO, ZERO, ZERO, ZERO[None]), (4, 16, 4), ZERO),
        lambda: _native.read_bandwidth(1, 0),
        lambda: _native.read_bandwidth(0, 1 << 20),
        lambda: _native.read_bandwidth(1, 1 << 60),
        lambda: _native.linear_rate(0, "scalar"),
        lambda: _native.linear_rate(1 << 20, "scalar"),
    ],
)
def test_calls_before_their_time_and_of_nothing_are_refused(call) -> None:
    with pytest.raises(ValueError, match=r"come first|not all set|must be"):
        call()
