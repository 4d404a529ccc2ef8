"""What a row says about where it was measured."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from halfbyte.errors import ArgumentError
from halfbyte.evaluate.provenance import git
from halfbyte.runtime.machine import available_tiers, measure_bandwidth

# Instruction sets that decide which kernels an engine here can pick.
NOTED_FLAGS = ("avx2", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")


def describe(threads: int) -> dict[str, Any]:
    """CPU, cores, caches, instruction sets, and the read bandwidth of `threads` pinned threads."""
    info = _cpuinfo()
    flags = cpu_flags()
    return {
        "cpu": info.get("model name", platform.processor() or platform.machine()),
        "family_model": f"{info.get('cpu family', '?')}/{info.get('model', '?')}",
        "cores": len(os.sched_getaffinity(0)),
        "flags": [flag for flag in NOTED_FLAGS if flag in flags],
        "cache_kb": info.get("cache size", "").removesuffix(" KB"),
        "memory_gb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9,
        "system": platform.release(),
        "tier": available_tiers()[0],
        "threads": threads,
        "read_gbs": measure_bandwidth(threads),
    }


def cpu_flags() -> set[str]:
    """Instruction sets the kernel lists."""
    return set(_cpuinfo().get("flags", "").split())


def pinned_cpus(threads: int) -> list[int]:
    """The CPUs every engine is confined to: the first `threads` this process may use."""
    cpus = sorted(os.sched_getaffinity(0))
    if not 1 <= threads <= len(cpus):
        raise ArgumentError(
            "--threads", got=threads, expected=f"1 to {len(cpus)}", fix="one per core is best"
        )
    return cpus[:threads]


def commit() -> str:
    """Short hash of the source measured; "+" marks changed files."""
    root = Path(__file__).parent.parent.parent
    head = git(root, "rev-parse", "--short=10", "HEAD")
    if not head:
        return "unknown"
    changed = git(root, "status", "--porcelain", "--", "src", "csrc", "CMakeLists.txt")
    return head + ("+" if changed else "")


def _cpuinfo() -> dict[str, str]:
    """The first processor's entries of /proc/cpuinfo."""
    entries: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, colon, value = line.partition(":")
        if not colon:
            break
        entries[key.strip()] = value.strip()
    return entries
