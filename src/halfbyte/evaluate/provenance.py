"""Where a result comes from: weights, program, machine."""

from __future__ import annotations

import hashlib
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import halfbyte
from halfbyte.api.llm import LLM
from halfbyte.errors import SourceError, reraise_machine_fault, told
from halfbyte.importers.gguf_parts import part_paths
from halfbyte.runtime.machine import processor_name

_SAMPLE_BYTES = 1 << 20
_MODEL_FILES = ("*.json", "*.safetensors", "*.jinja")


def fingerprint(path: Path) -> str:
    """16 hexadecimal digits of a model's names, sizes and samples; copies have the same one."""
    hashed = hashlib.sha256()
    try:
        files = part_paths(path)
        if path.is_dir():
            files = sorted(file for pattern in _MODEL_FILES for file in path.glob(pattern))
        for file in files:
            size = file.stat().st_size
            hashed.update(f"{file.name} {size}\n".encode())
            with file.open("rb") as opened:
                hashed.update(opened.read(_SAMPLE_BYTES))
                opened.seek(max(0, size - _SAMPLE_BYTES))
                hashed.update(opened.read(_SAMPLE_BYTES))
    except OSError as error:
        reraise_machine_fault(f"model {path.name}", error)
        raise SourceError(
            f"model {path.name}", got=told(error), expected="readable files", fix="check it"
        ) from error
    return hashed.hexdigest()[:16]


def machine(llm: LLM) -> dict[str, Any]:
    """CPU, tier and threads."""
    runtime = llm.model.runtime
    return {
        "cpu": processor_name(),
        "cores": len(os.sched_getaffinity(0)),
        "tier": getattr(runtime, "tier", "reference"),
        "threads": getattr(runtime, "threads", 1),
    }


def commit() -> str:
    """Short hash of the source this runs from, "+" where files differ; "" outside a checkout."""
    root = Path(halfbyte.__file__).parent
    head = git(root, "rev-parse", "--short=10", "HEAD")
    if not head or not git(root, "ls-files", "--", "__init__.py"):
        return ""
    return head + ("+" if git(root, "status", "--porcelain", "--", ".") else "")


def now() -> str:
    """UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def git(root: Path, *arguments: str) -> str:
    """What git says, "" where it fails or is not there."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
