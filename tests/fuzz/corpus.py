"""Seeds and inputs that once failed: tests/data/fuzz/TARGET/NAME/, tiny files each."""

from __future__ import annotations

from pathlib import Path

from tests.fuzz.mutate import Files

CORPUS = Path(__file__).parents[1] / "data" / "fuzz"


def read_corpus(target: str) -> dict[str, Files]:
    """Name of an input -> its files."""
    found = {}
    for directory in sorted((CORPUS / target).iterdir()):
        found[directory.name] = {path.name: path.read_bytes() for path in directory.iterdir()}
    return found


def write_files(directory: Path, files: Files) -> None:
    """Make the directory hold exactly these."""
    directory.mkdir(parents=True, exist_ok=True)
    for path in directory.iterdir():
        if path.name not in files:
            path.unlink()
    for name, content in files.items():
        (directory / name).write_bytes(content)
