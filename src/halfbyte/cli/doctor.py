"""`halfbyte doctor`."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import halfbyte
from halfbyte.cli.options import Json, Threads
from halfbyte.cli.output import note, print_json

_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def doctor(threads: Threads = None, json: Json = False) -> None:
    """Show what this machine offers: tier, threads, measured bandwidth, what is missing."""
    report = _examine(threads)
    if json:
        print_json(report)
        return
    for name, value in report.items():
        if name != "missing":
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            print(f"{name:<16}  {'not measured' if shown is None else shown}")
    missing = report["missing"]
    assert isinstance(missing, list)
    print(f"{'missing':<16}  {'nothing' if not missing else ''}".rstrip())
    for line in missing:
        print(f"  - {line}")


def _examine(threads: int | None) -> dict[str, object]:
    missing: list[str] = []
    report: dict[str, object] = {
        "version": halfbyte.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "huge_pages": _huge_pages(),
        "tier": None,
        "tiers": [],
        "threads": None,
        "read_gbs": None,
        "int8_gmacs": None,
        "missing": missing,
    }
    try:
        from halfbyte.runtime import machine
    except ImportError as error:
        missing.append(f"the native module ({error}): install again with a C++ compiler at hand")
        return report
    count, tier = machine.choose_threads(threads), machine.choose_tier()
    note("measuring bandwidth and arithmetic, a few seconds")
    report |= {
        "tier": tier,
        "tiers": machine.available_tiers(),
        "threads": count,
        "read_gbs": round(machine.measure_bandwidth(count), 1),
        "int8_gmacs": round(machine.measure_linear_rate(count, tier), 1),
    }
    if tier == "scalar":
        missing.append("vector instructions (AVX2 or AVX-512): decoding is slow without them")
    elif tier == "avx2":
        missing.append("AVX-512 VNNI: the AVX2 tier runs instead, at about half its arithmetic")
    if report["huge_pages"] in ("never", None):
        missing.append("transparent huge pages: they add about 15% of bandwidth (set madvise)")
    if count == 1:
        missing.append("a second core: one core reads about half of the memory bandwidth")
    return report


def _huge_pages() -> str | None:
    """The setting in brackets: always, madvise or never."""
    try:
        text = _HUGE_PAGES.read_text()
    except OSError:
        return None
    return text.partition("[")[2].partition("]")[0] or None
