"""What a program may do to this machine: compute. Everything else fails, or ends it."""

from __future__ import annotations

from pathlib import Path

import pytest

from halfbyte.errors import HalfbyteError
from halfbyte.evaluate import sandbox
from halfbyte.evaluate.sandbox import Limits, run_python

LIMITS = Limits(seconds=1, memory_bytes=1 << 28)

VERDICTS = {
    "assert sum(range(4)) == 6": "passed",
    "import math, typing, collections, itertools, re, hashlib, string, datetime, json": "passed",
    "open('x', 'w').write('a'); assert open('x').read() == 'a'": "passed",
    "assert 1 == 2": "failed: AssertionError",
    "def (": "failed: SyntaxError",
    "import sys; sys.exit(0)": "failed: SystemExit",
    "import os; os._exit(0)": "died",
    "def f(): f()\nf()": "failed: RecursionError",
    "x = 'a' * (1 << 32)": "failed: MemoryError",
    "import socket; socket.socket()": "failed: PermissionError",
    "import os; os.fork()": "failed: PermissionError",
    "import os; os.execv('/bin/sh', ['sh'])": "failed: PermissionError",
    "import subprocess; subprocess.run(['true'])": "failed: PermissionError",
    "import os; os.kill(os.getppid(), 9)": "failed: PermissionError",
    "import os; os.chmod('.', 0o777)": "failed: PermissionError",
    "import os; os.setuid(1)": "failed: PermissionError",
    "open('/etc/passwd')": "failed: PermissionError",
    "open('/proc/self/environ')": "failed: PermissionError",
    "import os; os.listdir('/')": "failed: PermissionError",
    "import ctypes; assert ctypes.CDLL(None).syscall(425, 8, 0) == 0": "failed: AssertionError",
    "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))": "failed: ValueError",
    "import signal\nsignal.signal(25, signal.SIG_IGN)\nopen('x', 'w').write('a' * (1 << 22))": (
        "failed: OSError"
    ),
}


@pytest.mark.parametrize("program", VERDICTS)
def test_a_program_can_compute_and_nothing_else(program: str) -> None:
    assert run_python(program, LIMITS) == VERDICTS[program]


@pytest.mark.parametrize(
    "program",
    [
        "while True: pass",
        "import time; time.sleep(60)",
        "import signal\nsignal.signal(24, signal.SIG_IGN)\nwhile True: pass",
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
    ],
)
def test_a_program_that_does_not_end_is_ended(program: str) -> None:
    assert run_python(program, LIMITS) == "timed out"


def test_files_outside_its_directory_stay_as_they_are(tmp_path: Path) -> None:
    kept = tmp_path / "kept.txt"
    kept.write_text("here", encoding="utf-8")
    for attack in (
        f"open({str(kept)!r}, 'w')",
        f"import os; os.remove({str(kept)!r})",
        f"import os; os.rename({str(kept)!r}, 'mine')",
        f"import os; os.symlink({str(kept)!r}, 'link'); open('link', 'w')",
        f"import os; os.link({str(kept)!r}, 'link'); open('link', 'w')",
        f"import os; os.truncate({str(kept)!r}, 0)",
        f"open({str(tmp_path / 'new')!r}, 'w')",
    ):
        assert run_python(attack, LIMITS).startswith("failed: ")
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]
    assert kept.read_text(encoding="utf-8") == "here"


def test_nothing_it_writes_is_left_behind() -> None:
    where = run_python(
        "import os; raise type(os.getcwd().replace('/', '|'), (Exception,), {})", LIMITS
    )
    directory = Path(where.removeprefix("failed: ").replace("|", "/"))
    assert "halfbyte-sandbox-" in directory.name
    assert not directory.exists()


def test_where_a_fence_is_missing_nothing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lame = tmp_path / "guard.py"
    text = sandbox.GUARD.read_text(encoding="utf-8")
    lame.write_text(text.replace("444, 445, 446", "9999, 445, 446"), encoding="utf-8")
    monkeypatch.setattr(sandbox, "GUARD", lame)
    with pytest.raises(HalfbyteError, match="Landlock") as caught:
        run_python("assert True", LIMITS)
    assert "\n" not in str(caught.value)
