"""`AsyncEngine`: many requests at once over one `LLM`, streamed to an asyncio program.

One worker thread runs the engine: a step is a native call without the GIL, so the event loop stays
free. The loop hands over commands, the worker hands back chunks; nothing else is shared.

Every wait, and why its wake-up is not lost:
- the worker, with nothing to run, in `_commands.get`: a `SimpleQueue` looks and waits under one
  lock, which `put` takes too; every command is put, whatever it is;
- the worker, in a native call that may take many forwards: `_command` puts first and raises the
  interrupt after, `_obey` lowers it first and empties the queue after. Whichever way they meet, a
  command is in the queue when it is emptied, or the flag is up when the next call begins. A flag
  that stays up without a command shortens one call;
- a reader in `RequestStream`, and `stop` while it drains: the event is looked at, cleared and
  awaited on the loop that sets it, with no await in between. What sets it comes through
  `call_soon_threadsafe`, in order, and a worker that fails ends every stream through `_fail`;
- `stop`, for the worker: `_Stop` is put behind all jobs; a worker that does not end in
  `END_SECONDS` is left behind, and its readers are told.
What these arguments do not cover is seen from outside: `stalled_seconds`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import queue
import sys
import threading
import time
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from pathlib import Path

from halfbyte.api.llm import LLM
from halfbyte.api.metrics import Snapshot
from halfbyte.api.options import AsyncOptions
from halfbyte.api.recorder import Recorder
from halfbyte.api.request import Request, require_one
from halfbyte.api.results import Chunk
from halfbyte.api.stream import RequestStream
from halfbyte.cascade.cascade import Cascade
from halfbyte.cascade.stages import Ngram
from halfbyte.checks import check_int
from halfbyte.config import Level
from halfbyte.engine.sequence import Sequence
from halfbyte.errors import ArgumentError, QueueFullError, StoppedError
from halfbyte.sampling.params import SamplingParams

END_SECONDS = 10.0  # for the step under way, when the engine stops


@dataclass(slots=True, eq=False)
class _Job:
    """A request and the stream that receives its chunks."""

    request: Request
    stream: RequestStream
    submitted: float
    told: float | None = None  # when its last tokens came


@dataclass(frozen=True, slots=True)
class _Stop:
    """Tells the worker to cancel what is left and return."""


@dataclass(frozen=True, slots=True)
class _Cancel:
    job: _Job


class AsyncEngine:
    """Submit, stream, cancel. Every method is called on one event loop; the `LLM` is its own."""

    def __init__(self, llm: LLM, options: AsyncOptions | None = None) -> None:
        self.llm = llm
        self.options = options or AsyncOptions()
        own = (llm.cascade, llm.cascade.plain)
        named = [llm.resolve(text) for text in self.options.cascades or ()]
        for cascade in named:
            llm.prepare(cascade)
        self._allowed = frozenset((*own, *named))
        self._commands: queue.SimpleQueue[_Job | _Cancel | _Stop] = queue.SimpleQueue()
        self._recorder = Recorder()
        self._live: set[_Job] = set()  # accepted and not ended; of the event loop
        self._arrivals = itertools.count()
        self._idle = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._accepting = False
        self._process = os.getpid()
        self._failure: BaseException | None = None
        self._busy_since = 0.0  # when there last was something to do after a pause
        self._turned = 0.0  # when the worker last came by; its own to write
        # Of the worker.
        self._engine = llm.engine()
        self._jobs: dict[Sequence, _Job] = {}  # in order of arrival
        self._queued: dict[Sequence, _Job] = {}  # those that have not run yet

    async def start(self) -> None:
        """Begin to accept requests."""
        if self._thread is not None:
            raise StoppedError(
                "engine",
                got="a second start",
                expected="one start of an engine",
                fix="make another AsyncEngine",
            )
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._work, name="halfbyte-engine", daemon=True)
        self._accepting = True
        self._thread.start()

    async def stop(self, drain_seconds: float = 0.0) -> None:
        """Accept nothing more, let requests finish for a while, then cancel the rest."""
        if self._thread is None:
            return
        self._accepting = False
        if self._live and drain_seconds > 0:
            self._idle.clear()
            with contextlib.suppress(TimeoutError):  # what is left then is cancelled
                await asyncio.wait_for(self._idle.wait(), drain_seconds)
        self._command(_Stop())
        await asyncio.to_thread(self._thread.join, END_SECONDS)
        if self._thread.is_alive():
            self._fail(_stopped(f"a step that has not ended in {END_SECONDS:g} s"))

    async def __aenter__(self) -> AsyncEngine:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def is_running(self) -> bool:
        """Whether requests are accepted."""
        ours = self._process == os.getpid()  # a child of a fork has no worker
        return self._accepting and self._failure is None and ours

    @property
    def has_failed(self) -> bool:
        """Whether a step has raised: every request has heard of it, and no more are accepted."""
        return self._failure is not None

    @property
    def stalled_seconds(self) -> float:
        """How long requests have been waiting for the end of one step; 0 where none wait.

        A healthy engine is far below a second, a machine that is too small for its model below a
        few. On the event loop only.
        """
        if not self._live:
            return 0.0
        return max(0.0, time.monotonic() - max(self._turned, self._busy_since))

    def where(self) -> str:
        """What the worker is in, innermost call first: for the log, when it stands still."""
        frame = sys._current_frames().get(self._thread.ident or 0) if self._thread else None
        calls: list[str] = []
        while frame is not None and len(calls) < 6:
            code = frame.f_code
            calls.append(f"{code.co_name} ({Path(code.co_filename).name}:{frame.f_lineno})")
            frame = frame.f_back
        return " < ".join(calls) or "no worker"

    def submit(
        self,
        prompt_ids: Seq[int],
        params: SamplingParams | None = None,
        *,
        cascade: str | Cascade | None = None,
        priority: int = 0,
        deadline: float | None = None,
        request_id: str | None = None,
    ) -> RequestStream:
        """Queue a request; iterate over what is returned.

        `cascade`: None for the LLM's own, `none` for its plain target. `priority`: lower goes
        first, as in vLLM. `deadline`: `time.monotonic()` seconds after which it ends with reason
        `deadline`. Raises `QueueFullError`, `StoppedError`, or `ArgumentError` for a bad request.
        """
        if not self.is_running:
            raise _stopped(f"a failure: {self._failure}" if self._failure else "a stopped engine")
        chosen = self._cascade_of(cascade)
        _check_order(priority, deadline)
        wanted = params or SamplingParams()
        require_one(wanted)
        request = Request(
            self.llm.model,
            prompt_ids,
            wanted,
            follow=True,
            cascade=chosen,
            priority=priority,
            deadline=deadline,
        )
        limit = self.llm.options.max_batch + self.options.max_waiting
        if len(self._live) >= limit:
            self._recorder.refused()
            raise QueueFullError(
                "request queue",
                got=f"{len(self._live)} unfinished requests",
                expected=f"fewer than {limit}",
                fix="try again later",
            )
        number = next(self._arrivals)
        job = _Job(
            request,
            RequestStream(request_id or f"request-{number}", lambda: self._cancel(job)),
            time.monotonic(),
        )
        if not self._live:
            self._busy_since = time.monotonic()
        self._live.add(job)
        self._recorder.accepted(request.sequence.prompt_len)
        self._command(job)
        return job.stream

    def snapshot(self) -> Snapshot:
        """Counters and gauges now; any thread."""
        return self._recorder.snapshot()

    def _cancel(self, job: _Job) -> None:
        self._command(_Cancel(job))

    def _command(self, command: _Job | _Cancel | _Stop) -> None:
        """Hand it to the worker, which comes for it after the forward it is in."""
        self._commands.put(command)
        self.llm.model.runtime.interrupt(wanted=True)

    def _cascade_of(self, cascade: str | Cascade | None) -> Cascade:
        if cascade is None:
            return self.llm.cascade
        if cascade == "none":
            return self.llm.cascade.plain
        chosen = self.llm.resolve(cascade)
        if chosen in self._allowed:
            return chosen
        # A request must not make the engine open a file.
        inside = all(isinstance(stage, Level | Ngram) for stage in chosen.stages)
        if self.options.cascades is not None or not inside:
            raise ArgumentError(
                "cascade",
                got=f"'{chosen}'",
                expected=f"none, or one of {', '.join(sorted(map(repr, map(str, self._allowed))))}",
                fix="leave it out for the default",
            )
        chosen.require(self.llm.model.runtime)
        return chosen

    # ---- the event loop's side of the worker ----

    def _deliver(self, chunks: list[tuple[_Job, Chunk]]) -> None:
        for job, chunk in chunks:
            last = chunk.completion is not None
            job.stream.deliver(chunk, last=last)
            if last:
                self._live.discard(job)
        if not self._live:
            self._idle.set()

    def _fail(self, error: BaseException) -> None:
        self._failure = error
        for job in self._live:
            job.stream.fail(error)
        self._live.clear()
        self._idle.set()

    # ---- the worker ----

    def _work(self) -> None:
        assert self._loop is not None
        try:
            while self._obey():
                if self._jobs:
                    with self.llm.model.turn:
                        self._post(self._step())
                self._turned = time.monotonic()
            self._post([self._end(job, "cancelled") for job in list(self._jobs.values())])
        except BaseException as error:  # a bug: every reader hears of it, none waits forever
            told = error if isinstance(error, Exception) else _stopped(repr(error))
            with contextlib.suppress(RuntimeError):  # a loop that was closed has no readers
                self._loop.call_soon_threadsafe(self._fail, told)
        finally:
            self.llm.model.runtime.interrupt(wanted=False)
            with self.llm.model.turn:
                self._engine.close()

    def _obey(self) -> bool:
        """Take every command; wait for one if there is nothing to run. False: stop."""
        self.llm.model.runtime.interrupt(wanted=False)  # before, so that none is missed
        while True:
            try:
                command = self._commands.get(block=not self._jobs)
            except queue.Empty:
                return True
            if isinstance(command, _Stop):
                return False
            if isinstance(command, _Job):
                sequence = command.request.sequence
                self._jobs[sequence] = self._queued[sequence] = command
                self._engine.add(sequence)
            elif command.job.request.sequence in self._jobs:
                self._post([self._end(command.job, "cancelled")])
                self._gauge()

    def _post(self, chunks: list[tuple[_Job, Chunk]]) -> None:
        if chunks:
            assert self._loop is not None
            self._loop.call_soon_threadsafe(self._deliver, chunks)

    def _step(self) -> list[tuple[_Job, Chunk]]:
        late = self._engine.expire(time.monotonic())
        told = [self._tell(self._jobs[sequence]) for sequence in late]
        if self._engine.has_work:
            told += [self._tell(self._jobs[sequence]) for sequence in self._engine.step()]
        self._recorder.stepped(self._engine.statistics, self._engine.last_turns)
        self._gauge()
        return told

    def _end(self, job: _Job, reason: str) -> tuple[_Job, Chunk]:
        """End a job before its time; its pages are free when this returns."""
        with self.llm.model.turn:
            self._engine.cancel(job.request.sequence, reason)
        return self._tell(job)

    def _tell(self, job: _Job) -> tuple[_Job, Chunk]:
        """What is new of a job that got tokens or ended, counted."""
        now, sequence = time.monotonic(), job.request.sequence
        chunk = job.request.take_chunk()
        assert chunk is not None
        if chunk.token_ids and job.told is None:
            self._recorder.first_tokens(len(chunk.token_ids), now - job.submitted)
        elif chunk.token_ids and job.told is not None:
            self._recorder.more_tokens(len(chunk.token_ids), now - job.told)
        job.told = now
        if sequence.finish_reason is not None:
            del self._jobs[sequence]
            self._queued.pop(sequence, None)
            self._recorder.finished(sequence.finish_reason, now - job.submitted)
        return job, chunk

    def _gauge(self) -> None:
        """Counts of waiting and running requests, and the pages, as they are now."""
        now, pool, engine = time.monotonic(), self.llm.model.pool, self._engine
        for sequence in [s for s in self._queued if s.committed_len > 0 or s.emitted_len > 0]:
            self._recorder.started(now - self._queued.pop(sequence).submitted)
        self._recorder.gauges(
            waiting=engine.num_waiting,
            running=engine.num_running,
            num_pages=pool.num_pages,
            free_pages=pool.num_free,
            cached_pages=pool.num_cached,
            preemptions=engine.preemptions,
        )


def _stopped(got: str) -> StoppedError:
    return StoppedError(
        "engine",
        got=got,
        expected="a started engine",
        fix="start it, or send the request to another one",
    )


def _check_order(priority: int, deadline: float | None) -> None:
    check_int("priority", priority, -(2**31), 2**31 - 1, "0 is the default; lower goes first")
    if deadline is not None and not isinstance(deadline, int | float):
        raise ArgumentError(
            "deadline",
            got=repr(deadline),
            expected="seconds of time.monotonic(), or None",
            fix="leave it out",
        )
