"""The process that renders: interrupted, killed, stopped, forked, lying: no prompt is mixed up."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from halfbyte import helper_process
from halfbyte.errors import FormatError, MachineError
from halfbyte.text import chat
from halfbyte.text.chat import ChatTemplate

# Takes some milliseconds for a message that is `slow`.
SOURCE = (
    "{% if messages[0].content.startswith('slow') %}{% for i in range(20000) %}{% endfor %}"
    "{% endif %}{{ messages[0].content }}"
)


def _template(source: str = SOURCE, seconds: float = 10.0) -> ChatTemplate:
    return ChatTemplate(source, bos_token="", eos_token="", render_seconds=seconds)


def _said(template: ChatTemplate, text: str) -> str:
    return template.render([{"role": "user", "content": text}])


def _pid(template: ChatTemplate) -> int:
    assert template._process._idle is not None
    return template._process._idle._process.pid


class _Interrupted(BaseException):
    """As KeyboardInterrupt, which pytest would take for its own."""


@contextmanager
def _interrupted_after(seconds: float) -> Iterator[None]:
    def interrupt(number: int, frame: FrameType | None) -> None:
        raise _Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _interrupted_at(step: int, seen: list[int]) -> Iterator[None]:
    """Raise where Python looks for signals for the `step`-th time between request and reply: where
    a function begins, or one of C's has ended. `seen` counts these places."""

    def look(frame: FrameType, event: str, argument: Any) -> None:
        if event in ("call", "c_return") and frame.f_code.co_filename == helper_process.__file__:
            seen[0] += 1
            if seen[0] == step:
                raise _Interrupted

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        yield
    finally:
        sys.setprofile(before)


def test_wherever_a_render_is_interrupted_the_next_ones_are_their_own() -> None:
    template, seen = _template(), [0]
    _said(template, "the process is there")
    with _interrupted_at(0, seen):
        _said(template, "counted")
    steps, interrupted = seen[0], 0
    assert steps > 20
    for step in range(1, steps + 1):
        try:
            with _interrupted_at(step, [0]):
                _said(template, f"interrupted {step}")
        except _Interrupted:
            interrupted += 1
        assert [_said(template, f"{step} {k}") for k in "ab"] == [f"{step} a", f"{step} b"]
    assert interrupted > steps / 2  # a reply in more pieces, or fewer, has other lines


def test_a_render_interrupted_while_it_waits_is_ended() -> None:
    template, interrupted = _template(), 0
    for i in range(6):
        try:
            with _interrupted_after(0.001):
                _said(template, f"slow {i}")
        except _Interrupted:
            interrupted += 1
        assert [_said(template, f"{i} {k}") for k in "ab"] == [f"{i} a", f"{i} b"]
    assert interrupted > 0


def test_threads_that_share_a_template_get_their_own_prompts() -> None:
    template, wrong = _template(), list[str]()

    def many(name: str) -> None:
        for i in range(30):
            text = f"{name} {i} " * 200
            if _said(template, text) != text:
                wrong.append(text)

    threads = [threading.Thread(target=many, args=(f"thread {k}",)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_process_that_was_killed_while_idle_is_started_again() -> None:
    template = _template()
    for i in range(3):
        os.kill(_pid(template), signal.SIGKILL)
        time.sleep(0.05 * i)  # at once too: it may still take the request, but not answer it
        assert _said(template, str(i)) == str(i)


def test_a_process_that_is_killed_at_work_is_replaced_once() -> None:
    slow = "{% for i in range(40) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    template = _template(slow + SOURCE)
    pid = _pid(template)
    killer = threading.Timer(0.01, os.kill, (pid, signal.SIGKILL))
    killer.start()
    assert _said(template, "slow") == "slow"
    killer.join()
    assert _pid(template) != pid


def test_a_process_that_stands_still_takes_no_longer_than_it_may() -> None:
    """Also where it does not even read: a long conversation does not fit into the pipe."""
    for text in ("short", "long" * 100_000):
        template = _template(seconds=0.5)
        os.kill(_pid(template), signal.SIGSTOP)
        with pytest.raises(FormatError, match=r"took over 0\.5 s"):
            _said(template, text)
        assert _said(template, "next") == "next"


def test_a_process_whose_parent_was_killed_ends_by_itself(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = chat._WORKER.read_text(encoding="utf-8")
    worker = tmp_path / "worker.py"
    worker.write_text(source.replace("alarm(ORPHAN_SECONDS)", "alarm(1)"))
    monkeypatch.setattr(chat, "_WORKER", worker)
    endless = "{% for a in range(99999) %}" * 4 + "{% endfor %}" * 4
    with pytest.raises(FormatError, match="its process ended"):
        _said(_template(endless, seconds=30), "x")


LIES = {
    "the number of another request": "send(number + 1, good)",
    "a length without end": "out.write(HEAD.pack(1 << 62, number) + b'x' * 99); out.flush()",
    "no JSON": "out.write(HEAD.pack(3, number) + b'{{{'); out.flush()",
    "deep JSON": "out.write(HEAD.pack(1 << 20, number) + b'[' * (1 << 20)); out.flush()",
    "no object": "send(number, [1])",
    "another object": "send(number, {'x': 1})",
    "half a reply": "out.write(HEAD.pack(50, number) + b'{'); out.flush(); sys.exit()",
}
LIAR = """
import json, struct, sys
HEAD, out = struct.Struct(">QQ"), sys.stdout.buffer
def send(number, values):
    data = json.dumps(values).encode()
    out.write(HEAD.pack(len(data), number) + data)
    out.flush()
loaded = False
while head := sys.stdin.buffer.read(16):
    size, number = HEAD.unpack(head)
    sys.stdin.buffer.read(size)
    good = {"text": "the prompt of another"}
    if loaded:
        LIE
    else:
        send(number, {"names": {"default": []}})
    loaded = True
"""


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_a_reply_that_is_not_the_one_asked_for_is_never_a_prompt(
    lie: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text(LIAR.replace("LIE", lie))
    monkeypatch.setattr(chat, "_WORKER", worker)
    template = _template(seconds=5)
    with pytest.raises(FormatError, match="its process ended"):
        _said(template, "mine")
    monkeypatch.undo()
    template._process._script = chat._WORKER
    assert _said(template, "mine") == "mine"


FORKING = """
import os, sys, time
from halfbyte.text.chat import ChatTemplate
template = ChatTemplate(SOURCE, bos_token="", eos_token="")
said = lambda text: template.render([{"role": "user", "content": text}])
lock = template._process._lock
lock.acquire()  # as if a thread had been rendering
pid = os.fork()
if pid:
    lock.release()
name = "parent" if pid else "child"
wrong = [i for i in range(200) if said(f"{name} {i}") != f"{name} {i}"]
if not pid:
    sys.exit(bool(wrong))  # with everything that runs at an exit: it must not end the parent's
_, status = os.waitpid(pid, 0)
owned = template._process._idle._process
assert said("after") == "after" and template._process._idle._process is owned
assert owned.poll() is None
print(owned.pid, wrong, status)
"""


def test_a_forked_child_has_a_process_of_its_own() -> None:
    script = FORKING.replace("SOURCE", repr(SOURCE))
    command = [sys.executable, "-c", script]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    pid, _, rest = ran.stdout.strip().partition(" ")
    assert rest == "[] 0"
    end = time.monotonic() + 10  # none is left over
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM])
def test_no_process_to_be_had_is_the_machines_fault_and_passes(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = _template()
    os.kill(_pid(template), signal.SIGKILL)

    def none(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(helper_process.subprocess, "Popen", none)
        time.sleep(0.1)
        with pytest.raises(MachineError, match=os.strerror(number)):
            _said(template, "x")
    assert _said(template, "x") == "x"
