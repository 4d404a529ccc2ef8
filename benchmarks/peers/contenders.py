"""The engines compared, and how each is asked for one number."""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from benchmarks.measure.rows import layout
from halfbyte import __version__
from halfbyte.errors import SourceError

IK_VARIABLE = "HALFBYTE_IK_LLAMA_BENCH"
# From this depth on either setting of flash attention may be the slower by far: both are tried.
DEEP = 1024
# What a careful user of either llama.cpp sets: huge pages under malloc, one pinned thread per core.
PEER_ENVIRONMENT = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "OMP_PROC_BIND": "true",
    "OMP_PLACES": "cores",
}


@dataclass(frozen=True, slots=True)
class Task:
    """`decode`: `tokens` one by one; `prefill`: all at once. Either after `depth` tokens."""

    kind: str
    tokens: int
    depth: int = 0
    repeats: int = 3  # inside a process; their median counts

    @property
    def metric(self) -> str:
        return f"{self.kind} {self.tokens} @ {self.depth}"


@dataclass(frozen=True, slots=True)
class Reading:
    """One process' answer: tokens per second, and what a row says about the engine."""

    value: float
    version: str
    num_bytes: int
    details: dict[str, Any]


class Contender(Protocol):
    """An engine with a model in one format."""

    @property
    def engine(self) -> str: ...

    @property
    def format(self) -> str: ...

    @property
    def cascade(self) -> str: ...

    @property
    def environment(self) -> Mapping[str, str]: ...

    def command(self, test: Task) -> Sequence[str]: ...

    def read(self, output: str) -> Reading: ...


@dataclass(frozen=True, slots=True)
class Halfbyte:
    """Plain decoding at one level, through the runtime protocol."""

    model: str
    level: str
    threads: int
    planes: int | None

    engine = "halfbyte"

    @property
    def format(self) -> str:
        return layout(self.planes)

    @property
    def cascade(self) -> str:
        return self.level

    @property
    def environment(self) -> Mapping[str, str]:
        return {}

    def command(self, test: Task) -> Sequence[str]:
        command = [sys.executable, "-m", "benchmarks.decoding.worker", test.kind, self.model]
        command += ["--level", self.level, "--tokens", str(test.tokens)]
        command += ["--depth", str(test.depth), "--repeats", str(test.repeats)]
        command += ["--threads", str(self.threads)]
        return command + (["--planes", str(self.planes)] if self.planes else [])

    def read(self, output: str) -> Reading:
        found = json.loads(output)
        details = {"tier": found["tier"], "memory": found["memory"]["anonymous"]}
        return Reading(found["value"], __version__, found["bytes"], details)


@dataclass(frozen=True, slots=True)
class LlamaBench:
    """A `llama-bench` of llama.cpp or ik_llama.cpp, with one GGUF file."""

    engine: str
    program: Path
    model: Path
    format: str
    threads: int
    is_ik: bool = False

    cascade = ""

    @property
    def environment(self) -> Mapping[str, str]:
        return PEER_ENVIRONMENT

    def command(self, test: Task) -> Sequence[str]:
        command = [str(self.program), "-m", str(self.model), "-t", str(self.threads)]
        command += ["-r", str(test.repeats), "-o", "json"]
        if test.kind == "prefill":
            command += ["-p", str(test.tokens), "-n", "0"]
        elif self.is_ik and test.depth:
            command += ["-p", "0", "-n", "0", "-gp", f"{test.depth},{test.tokens}"]
        else:
            command += ["-p", "0", "-n", str(test.tokens)]
        if test.depth >= DEEP:
            command += ["-fa", "1,0"]
        if self.is_ik:
            return [*command, "-rtr", "1"]  # repack the weights at load: its faster path
        return [*command, "-d", str(test.depth)] if test.depth else command

    def read(self, output: str) -> Reading:
        try:
            # Where several settings ran, a careful user keeps the fastest.
            found = max(json.loads(output), key=_median_rate)
            value, version = _median_rate(found), str(found["build_commit"])
        except (ValueError, LookupError, TypeError) as error:
            raise SourceError(
                str(self.program),
                got=f"{type(error).__name__}: {error}",
                expected="llama-bench's JSON",
                fix="run it by hand with -o json",
            ) from error
        details = {"flash_attention": bool(found.get("flash_attn"))}
        return Reading(value, version, self.model.stat().st_size, details)


def _median_rate(found: dict[str, Any]) -> float:
    return statistics.median(float(x) for x in found["samples_ts"])


def llama_benches(
    directory: Path, model: str, formats: Sequence[str], threads: int
) -> list[LlamaBench]:
    """Every `bin/llama-bench*` of a prepared directory, and ik's where its variable names one.

    Models are `models/MODEL.FORMAT.gguf`; a suffix of the program's name is told with the engine's.
    """
    programs = [
        ("llama.cpp" + path.name.removeprefix("llama-bench").replace("-", " ", 1), path, False)
        for path in sorted((directory / "bin").glob("llama-bench*"))
    ]
    ik = os.environ.get(IK_VARIABLE)
    if ik:
        programs.append(("ik_llama.cpp", Path(ik), True))
    if not programs:
        raise SourceError(
            "peers",
            got=f"no {directory}/bin/llama-bench and no {IK_VARIABLE}",
            expected="a built llama-bench",
            fix="put one there: benchmarks/README.md, Peers",
        )
    found = []
    for name in formats:
        path = directory / "models" / f"{model}.{name}.gguf"
        if not path.is_file():
            raise SourceError(
                "peer model",
                got=f"no {path}",
                expected="a GGUF file",
                fix="make it with llama-quantize: benchmarks/README.md, Peers",
            )
        for engine, program, is_ik in programs:
            found.append(LlamaBench(engine, program, path, name, threads, is_ik))
    return found
