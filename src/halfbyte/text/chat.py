"""Chat templates: a model's own Jinja source, run in a process of its own (template_worker)."""

from __future__ import annotations

import json
import os
import select
import struct
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

from halfbyte.errors import ArgumentError, FormatError

MAX_TEMPLATE_CHARS = 1 << 20
RENDER_SECONDS = 10.0  # a long conversation takes milliseconds
START_SECONDS = 60.0  # Python and Jinja, on a busy machine
_WORKER = Path(__file__).with_name("template_worker.py")
# The worker gets no other variable: the environment may hold keys.
_PASSED = ("PATH", "LD_LIBRARY_PATH", "PYTHONHOME", "TZ", "LANG", "LC_ALL", "LC_CTYPE", "LC_TIME")
Message = Mapping[str, Any]


class ChatTemplate:
    """Messages to prompt text. One render at a time; callable from any thread."""

    def __init__(
        self,
        source: str | None,
        *,
        bos_token: str,
        eos_token: str,
        render_seconds: float = RENDER_SECONDS,
    ) -> None:
        if source is None:
            raise ArgumentError(
                "chat",
                got="a model without a chat template",
                expected="an instruct model",
                fix="give a plain prompt instead of messages",
            )
        if len(source) > MAX_TEMPLATE_CHARS:
            raise _fault(f"{len(source)} characters")
        self.source = source
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._seconds = render_seconds
        self._lock = threading.Lock()
        self._worker: _Worker | None = None
        self._names: list[str] = []
        with self._lock:
            self._started()

    @property
    def supports_tools(self) -> bool:
        """Whether the template reads `tools`."""
        return "tools" in self._names

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt text, ending where the assistant's answer begins.

        `variables`: what a template may read besides messages and tools, such as enable_thinking.
        """
        _check_messages(messages)
        values: dict[str, Any] = {"add_generation_prompt": True} | dict(variables or {})
        if tools is not None:
            values["tools"] = [dict(tool) for tool in tools]
        values |= self._tokens | {"messages": [dict(m) for m in messages]}
        try:
            request = json.dumps({"values": values}).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise ArgumentError(
                "messages",
                got=str(error)[:200],
                expected="JSON values",
                fix="give text and numbers",
            ) from error
        with self._lock:
            answer = self._ask(self._started(), request, self._seconds)
        return str(answer["text"])

    def _started(self) -> _Worker:
        """The worker, with the template loaded; a new one where the last had to be ended."""
        if self._worker is None:
            worker = _Worker()
            first = json.dumps({"source": self.source}).encode()
            self._names = self._ask(worker, first, START_SECONDS)["names"]
            self._worker = worker
        return self._worker

    def _ask(self, worker: _Worker, request: bytes, seconds: float) -> dict[str, Any]:
        answer = worker.ask(request, seconds)
        if answer is None:
            self._worker = None
            worker.end()
            raise _fault(f"it took over {seconds:g} s, or too much memory")
        if "refused" in answer:
            raise ArgumentError(
                "messages",
                got=f"refused by the model's template: {answer['refused']}",
                expected="messages in a form the model was trained on",
                fix="check the roles and their order",
            )
        if "fault" in answer:
            raise _fault(str(answer["fault"]))
        return answer


class _Worker:
    """One process that runs one template; it ends with this object, or when its stdin closes."""

    def __init__(self) -> None:
        passed = {name: os.environ[name] for name in _PASSED if name in os.environ}
        passed["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(_WORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=passed,
                cwd="/",
                start_new_session=True,  # Ctrl-C is for us
            )
        except OSError as error:
            raise _fault(f"no process to run it in ({error})") from error
        self.end = weakref.finalize(self, _end, self._process)

    def ask(self, request: bytes, seconds: float) -> dict[str, Any] | None:
        """The answer to one frame; None: none came in time, or the process is gone."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(struct.pack(">Q", len(request)) + request)
            self._process.stdin.flush()
        except OSError:
            return None
        source, end = self._process.stdout.fileno(), monotonic() + seconds
        head = _read(source, 8, end)
        body = _read(source, struct.unpack(">Q", head)[0], end) if head is not None else None
        if body is None:
            return None
        answer: dict[str, Any] = json.loads(body)
        return answer


def _read(source: int, size: int, end: float) -> bytes | None:
    data = bytearray()
    poll = select.poll()
    poll.register(source, select.POLLIN | select.POLLHUP)
    while len(data) < size:
        if not poll.poll(max(0.0, end - monotonic()) * 1000):
            return None
        piece = os.read(source, min(size - len(data), 1 << 16))
        if not piece:
            return None
        data += piece
    return bytes(data)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):  # a frame the process never read
                pipe.close()


def _check_messages(messages: object) -> None:
    fix = 'give [{"role": "user", "content": "..."}]'
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise ArgumentError(
            "messages", got=repr(messages)[:80], expected="a non-empty list of messages", fix=fix
        )
    for message in messages:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ArgumentError(
                "message", got=repr(message)[:80], expected="a mapping with a role", fix=fix
            )


def _fault(got: str) -> FormatError:
    return FormatError(
        "bad-chat-template",
        "the model's chat template",
        got=got[:200],
        expected="a Jinja template that renders",
        fix="give a plain prompt instead, or convert the model again",
    )
