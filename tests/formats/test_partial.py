"""What a writer leaves on the way: one owner each, nothing that stays, nothing of others."""

import fcntl
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from halfbyte.errors import HalfbyteError, MachineError
from halfbyte.formats import partial
from halfbyte.formats.partial import (
    LEASE_SECONDS,
    PartialDirectory,
    disk_errors,
    remove_abandoned,
    write_array,
    written_aside,
)


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def age(path, seconds):
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_two_writers_of_one_destination_do_not_meet(tmp_path):
    with PartialDirectory(tmp_path / "c") as one, PartialDirectory(tmp_path / "c") as other:
        assert one.path != other.path
        (one.path / "x").write_text("1")
        (other.path / "x").write_text("2")
        assert (one.path / "x").read_text() == "1"
        one.publish()
        assert names(tmp_path / "c") == ["x"]
        with pytest.raises(OSError, match="not empty"):
            other.publish()
    assert names(tmp_path) == ["c"]


def test_what_lives_is_left_alone_even_if_it_was_silent_for_long(tmp_path):
    with PartialDirectory(tmp_path / "c") as living:
        age(living.path / "owner", 10 * LEASE_SECONDS)
        remove_abandoned(tmp_path / "c")
        assert living.path.is_dir()


KILLED = """
import os, signal, sys
from pathlib import Path
from halfbyte.formats.partial import PartialDirectory
with PartialDirectory(Path(sys.argv[1])):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(dest):
    command = [sys.executable, "-c", KILLED, str(dest)]
    subprocess.run(
        command, check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )


def test_what_a_killed_owner_left_goes_at_once(tmp_path):
    killed(tmp_path / "c")
    assert len(names(tmp_path)) == 1
    with PartialDirectory(tmp_path / "c") as own:
        assert names(tmp_path) == [own.path.name]


def test_what_an_owner_on_another_machine_left_goes_when_its_lease_is_over(tmp_path, monkeypatch):
    killed(tmp_path / "c")
    (left,) = tmp_path.iterdir()
    monkeypatch.setattr(partial, "_boot", lambda: "another machine")
    remove_abandoned(tmp_path / "c")
    assert left.is_dir()
    age(left / "owner", LEASE_SECONDS + 60)
    remove_abandoned(tmp_path / "c")
    assert not left.exists()


@pytest.mark.parametrize("name", [".c.17.partial", ".c.0123456789abcdef.partial"])
def test_a_directory_without_an_owner_is_left_for_the_time_of_a_lease(tmp_path, name):
    left = tmp_path / name
    left.mkdir()
    remove_abandoned(tmp_path / "c")
    assert left.is_dir()
    age(left, LEASE_SECONDS + 60)
    remove_abandoned(tmp_path / "c")
    assert not left.exists()


def test_a_file_system_without_locks_has_leases_alone(tmp_path, monkeypatch):
    def none(descriptor, how):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", none)
    with PartialDirectory(tmp_path / "c") as living:
        remove_abandoned(tmp_path / "c")
        assert living.path.is_dir()
        age(living.path / "owner", LEASE_SECONDS + 60)
        living.renew()
        remove_abandoned(tmp_path / "c")
        assert living.path.is_dir()
        age(living.path / "owner", LEASE_SECONDS + 60)
        remove_abandoned(tmp_path / "c")
        assert not living.path.exists()


@pytest.mark.parametrize("other", ["c.d", "cc", "c.1", "[c]", "c?", ".c"])
def test_other_destinations_keep_theirs(tmp_path, other):
    killed(tmp_path / other)
    left = names(tmp_path)
    remove_abandoned(tmp_path / "c")
    assert names(tmp_path) == left
    remove_abandoned(tmp_path / other)
    assert names(tmp_path) == []


def test_a_long_name_of_a_destination_can_be_written(tmp_path):
    dest = tmp_path / ("ü" * 127)
    with PartialDirectory(dest) as own:
        own.publish()
    assert names(tmp_path) == [dest.name]


def test_a_file_written_aside_appears_whole_or_not_at_all(tmp_path):
    with written_aside(tmp_path / "f") as aside:
        aside.write_text("whole")
        assert names(tmp_path) == [aside.name]
    assert (tmp_path / "f").read_text() == "whole"
    with pytest.raises(ValueError, match="no"):
        half_written(tmp_path / "f")
    assert names(tmp_path) == ["f"]
    assert (tmp_path / "f").read_text() == "whole"


def half_written(path):
    with written_aside(path) as aside:
        aside.write_text("half")
        raise ValueError("no")


def test_a_full_disk_is_told_as_one(tmp_path):
    with pytest.raises(MachineError, match=r"No space left.*free space on the disk"):
        full(tmp_path)


def full(tmp_path):
    with disk_errors(tmp_path / "c"):
        write_array(partial.Path("/dev/full"), np.zeros(1 << 20, np.float32))


def test_an_array_written_is_what_numpy_reads(tmp_path):
    for array in (np.arange(12, dtype=np.int32).reshape(3, 4), np.zeros((0, 2), np.float16)):
        write_array(tmp_path / "a.npy", array)
        np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), array, strict=True)


def test_an_error_without_a_number_is_told_by_its_text(tmp_path):
    with pytest.raises(HalfbyteError, match="10 requested and 0 written"), disk_errors(tmp_path):
        raise OSError("10 requested and 0 written")
