"""A run that is killed goes on where it stopped and ends with the same bytes."""

import os
import signal
import subprocess
import sys
import time

import pytest

from halfbyte.calibration.quantize import QuantizeOptions, quantize
from halfbyte.calibration.text import Amount
from halfbyte.calibration.work import WorkDirectory
from halfbyte.errors import ArgumentError, HalfbyteError
from tests.calibration.models import model, text

LAYERS = 24


def command(source, dest, calibration, *more):
    return [
        *(sys.executable, "-m", "halfbyte", "quantize", str(source), str(dest)),
        *("--calibration", str(calibration), "--tokens", "512", "--sequence", "64"),
        *("--threads", "2", *more),
    ]


def contents(path):
    return {p.name: p.read_bytes() for p in path.iterdir()}


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(tmp_path):
    source, calibration = model(tmp_path / "model", LAYERS), text(tmp_path / "text.txt")
    dest = tmp_path / "killed"
    work = tmp_path / ".killed.quantizing"
    process = subprocess.Popen(command(source, dest, calibration), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(work.glob("residual-*[1-9].npy")):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not dest.exists()
    begun = os.stat(work / "checkpoint" / "layer-000.safetensors").st_ino

    other = subprocess.run(
        command(source, dest, calibration, "--group", "64"), capture_output=True, text=True
    )
    assert other.returncode == 2
    assert "other settings (group)" in other.stderr
    assert len(other.stderr.splitlines()) == 1

    again = subprocess.run(command(source, dest, calibration), capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "going on with the run" in again.stderr
    assert os.stat(dest / "layer-000.safetensors").st_ino == begun  # not written again
    assert not work.exists()

    whole = subprocess.run(command(source, tmp_path / "whole", calibration), capture_output=True)
    assert whole.returncode == 0
    assert contents(dest) == contents(tmp_path / "whole")


@pytest.mark.parametrize("scheme", ["quarot", "quarot-rtn", "atom"])
@pytest.mark.parametrize("at", ["layers.1", "embed"])
def test_a_run_taken_up_says_how_kept_layers_read_their_inputs(tmp_path, scheme, at):
    source = model(tmp_path / "model", 2)
    options = QuantizeOptions(
        scheme, planes=4, calibration=text(tmp_path / "text.txt"), amount=Amount(256, 64), threads=1
    )

    class StoppedError(Exception):
        pass

    def stop(name, done, total):
        if name == at:
            raise StoppedError

    with pytest.raises(StoppedError):
        quantize(source, tmp_path / "a", options, progress=stop)
    quantize(source, tmp_path / "a", options)
    quantize(source, tmp_path / "b", options)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.parametrize("scheme", ["rtn", "gptq"])
def test_a_layer_whose_residual_was_not_written_is_done_again(tmp_path, monkeypatch, scheme):
    source = model(tmp_path / "model", 4)
    options = QuantizeOptions(
        scheme, calibration=text(tmp_path / "text.txt"), amount=Amount(256, 64), threads=1
    )

    class StoppedError(Exception):
        pass

    def stop(name, done, total):
        if name == "layers.2":
            raise StoppedError

    with pytest.raises(StoppedError):
        quantize(source, tmp_path / "a", options, progress=stop)
    work = tmp_path / ".a.quantizing"
    for newest in work.glob("residual-000002.npy"):  # as if killed between layer 1 and its residual
        newest.unlink()
    quantize(source, tmp_path / "a", options)
    quantize(source, tmp_path / "b", options)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_restart_discards_what_is_left(tmp_path):
    dest = tmp_path / "out"
    with WorkDirectory(dest, {"group": 32}, restart=False) as work:
        work.checkpoint.mkdir()
        (work.checkpoint / "layer-000.safetensors").write_bytes(b"old")
    with (
        pytest.raises(ArgumentError, match=r"other settings \(group\).*--restart"),
        WorkDirectory(dest, {"group": 64}, restart=False),
    ):
        pass
    with WorkDirectory(dest, {"group": 64}, restart=True) as work:
        assert not work.checkpoint.exists()


def test_two_runs_do_not_share_a_destination(tmp_path):
    dest = tmp_path / "out"
    with (
        WorkDirectory(dest, {}, restart=False),
        pytest.raises(HalfbyteError, match="another run at work"),
        WorkDirectory(dest, {}, restart=True),
    ):
        pass


def test_a_damaged_state_is_one_clear_line(tmp_path):
    dest = tmp_path / "out"
    with WorkDirectory(dest, {}, restart=False) as work:
        (work.path / "tokens.npy").write_bytes(b"\x93NUMPY nonsense")
        with pytest.raises(HalfbyteError, match=r"tokens\.npy.*--restart"):
            work.tokens()
