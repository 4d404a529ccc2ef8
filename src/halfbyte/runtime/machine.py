"""This machine: which tier and how many threads to use, what it can read and multiply."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from halfbyte import _native
from halfbyte.checks import check_int
from halfbyte.errors import ArgumentError

TIER_VARIABLE = "HALFBYTE_TIER"
# Larger than any last-level cache share seen, small enough to measure in a fraction of a second.
DRAM_PROBE_BYTES = 512 << 20


def available_tiers() -> list[str]:
    """Names of the tiers this processor runs, best first."""
    return _native.tiers()


def choose_tier(wanted: str | None = None) -> str:
    """The tier asked for, else the one HALFBYTE_TIER names, else the best."""
    tiers = available_tiers()
    name = wanted or os.environ.get(TIER_VARIABLE) or tiers[0]
    if name not in tiers:
        raise ArgumentError(
            "instruction tier",
            got=repr(name),
            expected=f"one this processor runs: {', '.join(tiers)}",
            fix=f"choose one of those or unset {TIER_VARIABLE}",
        )
    return name


def choose_threads(wanted: int | None = None) -> int:
    """The number asked for, else one thread per physical core this process may use."""
    if wanted is None:
        return _native.physical_cores()
    check_int("threads", wanted, 1, 256, "leave it out for one per core")
    return wanted


def measure_bandwidth(threads: int) -> float:
    """GB/s that `threads` pinned threads read together from memory no cache holds."""
    return _native.read_bandwidth(threads, DRAM_PROBE_BYTES)


def measure_linear_rate(threads: int, tier: str) -> float:
    """GMAC/s of a cache-resident quantized linear layer, all threads together."""
    return _native.linear_rate(threads, tier)


def processor_name() -> str:
    """What the system calls the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()
