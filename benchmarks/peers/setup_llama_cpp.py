"""Prepares llama.cpp as a peer: builds the source its Python binding ships, and makes model files.

    python -m benchmarks.peers.setup_llama_cpp DIR --requantize smollm2-135m=PATH.gguf

DIR gets `bin/llama-bench` and `bin/llama-server` (on CPUs with AMX also both with `-no-amx`: which
one is faster differs by test) and `models/NAME.{Q4_0-pure,Q4_0,Q8_0}.gguf`. Needs cmake, a C++
compiler and a package index.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measure.machine import cpu_flags
from benchmarks.measure.process import guarded
from halfbyte.errors import SourceError

PACKAGE = "llama_cpp_python"
VERSION = "0.3.36"
PROGRAMS = ("llama-bench", "llama-server")
CMAKE_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_NATIVE=ON",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
)
# GCC 12 tells its optimizer that `ldtilecfg` reads 8 bytes (it reads 64) and `tileloadd` none, so
# stores before them are dropped and the first prefill ends in a protection fault. This header, put
# before every C++ file, gives both the input they have.
AMX_HEADER = """\
#pragma once
#include <immintrin.h>
#define _tile_loadconfig(p) \\
    __asm__ volatile("ldtilecfg\\t%X0" ::"m"(*(const char(*)[64])(p)) : "memory")
#undef _tile_loadd
#define _tile_loadd(dst, base, stride)                \\
    do {                                              \\
        __asm__ volatile("" ::: "memory");            \\
        _tile_loadd_internal(dst, base, stride);      \\
    } while (0)
"""
NO_AMX_FLAGS = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
FORMATS = {"Q4_0-pure": ("Q4_0", True), "Q4_0": ("Q4_0", False), "Q8_0": ("Q8_0", False)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("directory", type=Path)
    parser.add_argument(
        "--requantize", metavar="NAME=GGUF", action="append", default=[], help="may be repeated"
    )
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    directory: Path = arguments.directory.resolve()
    models = [_named_model(text) for text in arguments.requantize]
    source = fetch_source(directory)
    if "amx_int8" in cpu_flags():
        header = directory / "amx_intrinsics.h"
        header.write_text(AMX_HEADER, encoding="utf-8")
        build(source, directory, "", f"-include {shlex.quote(str(header))}", "", arguments.jobs)
        build(source, directory, "-no-amx", NO_AMX_FLAGS, NO_AMX_FLAGS, arguments.jobs)
    else:
        build(source, directory, "", "", "", arguments.jobs)
    for name, path in models:
        requantize(directory, name, path)


def fetch_source(directory: Path) -> Path:
    """The llama.cpp tree of the source distribution, downloaded and unpacked once."""
    source = directory / f"{PACKAGE}-{VERSION}" / "vendor" / "llama.cpp"
    if source.is_dir():
        return source
    directory.mkdir(parents=True, exist_ok=True)
    archive = directory / f"{PACKAGE}-{VERSION}.tar.gz"
    if not archive.is_file():
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(directory)]
        _run([*pip, "--no-binary", PACKAGE, f"{PACKAGE}=={VERSION}"])
    unpacking = directory / "unpacking"
    shutil.rmtree(unpacking, ignore_errors=True)
    with tarfile.open(archive) as tar:
        tar.extractall(unpacking, filter="data")
    (unpacking / f"{PACKAGE}-{VERSION}").rename(directory / f"{PACKAGE}-{VERSION}")
    unpacking.rmdir()
    return source


def build(
    source: Path, directory: Path, suffix: str, cxx_flags: str, c_flags: str, jobs: int
) -> None:
    """Leave `llama-bench{suffix}`, `llama-server{suffix}` and `quantize{suffix}` in `bin`."""
    programs = [directory / "bin" / f"{name}{suffix}" for name in PROGRAMS]
    if all(program.is_file() for program in programs):
        return
    tree = directory / f"build{suffix}"
    flags = [f"-DCMAKE_CXX_FLAGS={cxx_flags}", f"-DCMAKE_C_FLAGS={c_flags}"]
    _run(["cmake", "-S", str(source), "-B", str(tree), *CMAKE_OPTIONS, *flags])
    targets = ["--target", *PROGRAMS, "llama-quantize"]
    _run(["cmake", "--build", str(tree), "-j", str(jobs), *targets])
    (directory / "bin").mkdir(exist_ok=True)
    shutil.copy2(tree / "bin" / "llama-quantize", directory / "bin" / f"quantize{suffix}")
    for program in programs:
        shutil.copy2(tree / "bin" / program.name.removesuffix(suffix), program)


def requantize(directory: Path, name: str, path: Path) -> None:
    """Make the model's files in every format compared; `pure` quantizes the head like the rest."""
    (directory / "models").mkdir(exist_ok=True)
    for label, (kind, pure) in FORMATS.items():
        made = directory / "models" / f"{name}.{label}.gguf"
        if made.is_file():
            continue
        aside = made.with_suffix(".part")
        options = ["--allow-requantize", *(["--pure"] if pure else [])]
        _run([str(directory / "bin" / "quantize"), *options, str(path), str(aside), kind, "2"])
        aside.rename(made)


def _named_model(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not equals or not name or not Path(path).is_file():
        raise SourceError(
            "--requantize",
            got=repr(text),
            expected="NAME=PATH of a GGUF file",
            fix="for example smollm2-135m=model.gguf",
        )
    return name, Path(path).resolve()


def _run(command: Sequence[str]) -> None:
    print("+", " ".join(command), file=sys.stderr, flush=True)
    try:
        status = subprocess.run(command, check=False, stdout=sys.stderr).returncode
    except FileNotFoundError:
        status = 127
    if status:
        raise SourceError(
            command[0], got=f"status {status}", expected="status 0", fix="see its output above"
        )


if __name__ == "__main__":
    guarded(main)
