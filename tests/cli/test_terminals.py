"""Whatever a terminal is: one line, an exit status, never a traceback, and `--json` stays pure."""

from __future__ import annotations

import json
import os
import pwd
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from halfbyte.cli.main import run
from halfbyte.importers.cache import cache_directory
from tests.importers.tiny_gguf import TinyGguf

SMALL = "--num-tokens 512 -t 1"
HALFBYTE = f"{shlex.quote(sys.executable)} -m halfbyte"


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """`halfbyte` in the command is this one."""
    return subprocess.run(
        ["sh", "-c", command.replace("halfbyte ", f"{HALFBYTE} ")],
        capture_output=True,
        timeout=120,
        check=False,
        env={**os.environ, "HALFBYTE_CACHE": "/nowhere/at/all", **environment},
    )


def one_line(done: subprocess.CompletedProcess[bytes], status: int) -> str:
    text = done.stderr.decode()
    assert done.returncode == status, text
    assert "Traceback" not in text
    assert "Exception ignored" not in text
    assert text.startswith("halfbyte: ")
    assert text.count("\n") == 1, text
    return text


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_an_answer_is_escaped_where_the_terminal_cannot_show_it(
    talking_model: Path, encoding: str
) -> None:
    asked = f"halfbyte generate {talking_model} -p 日本語 -n 24 --ignore-eos {SMALL} -c w8a16"
    told = shell(f"{asked} --json", PYTHONIOENCODING=encoding)
    values = json.loads(told.stdout.decode(encoding))
    assert told.stdout.count(b"\n") == 1
    assert not values["text"].isascii()
    plain = shell(asked, PYTHONIOENCODING=encoding)
    assert plain.returncode == 0, plain.stderr
    wanted = values["text"].encode(encoding, errors="backslashreplace")
    assert plain.stdout == wanted + b"\n"


@pytest.mark.parametrize("what", ["--help", "generate --help", "--version", "inspect MODEL"])
@pytest.mark.parametrize(
    ("where", "why"),
    [("> /dev/full", "No space left"), (">&-", "Bad file descriptor"), ("| true", "")],
)
def test_what_cannot_be_printed_is_status_1(
    talking_model: Path, what: str, where: str, why: str
) -> None:
    command = f"halfbyte {what} {where}".replace("MODEL", str(talking_model))
    done = shell(command)
    assert b"Traceback" not in done.stderr
    assert b"ignored" not in done.stderr
    if why:
        assert why in one_line(done, 1)


@pytest.mark.parametrize("where", ["> /dev/full", ">&-"])
def test_an_answer_that_cannot_be_printed_is_status_1(talking_model: Path, where: str) -> None:
    for more in ("", "--json"):
        asked = f"halfbyte generate {talking_model} -n 2 -p x {SMALL} -c w8a16 {more} {where}"
        assert "standard output" in one_line(shell(asked), 1)


@pytest.mark.parametrize("where", ["2> /dev/full", "2>&-", "2>&- <&-"])
def test_messages_without_a_reader_are_lost_and_nothing_else(
    talking_model: Path, where: str
) -> None:
    done = shell(f"halfbyte generate {talking_model} -n 2 -p x {SMALL} -c w8a16 --json {where}")
    assert done.returncode == 0
    assert len(json.loads(done.stdout)["token_ids"]) == 2
    done = shell(f"halfbyte inspect no-such-model --json {where}")
    assert (done.returncode, done.stdout) == (2, b"")
    assert shell(f"halfbyte inspect no-such-model {where} >&-").returncode == 2


def test_a_file_that_is_written_is_never_a_closed_stream(tmp_path: Path) -> None:
    """The first file opened gets the lowest free descriptor: prints would land in it."""
    model = TinyGguf().write(tmp_path / "m.gguf")
    done = shell(f"halfbyte convert {model} {tmp_path / 'c'} <&- >&- 2>&-")
    assert done.returncode == 0
    shown = shell(f"halfbyte inspect {tmp_path / 'c'} --json")
    assert json.loads(shown.stdout)["planes"] == 4


@pytest.mark.parametrize(
    ("given", "why"),
    [("<&-", "closed"), ("< FILE", "codec can't decode"), ("< /dev/zero", "over ")],
)
def test_a_prompt_that_cannot_be_read_is_one_line(
    talking_model: Path, tmp_path: Path, given: str, why: str
) -> None:
    (tmp_path / "text").write_bytes(b"ab\xff\xfe")
    given = given.replace("FILE", str(tmp_path / "text"))
    for locale in ({}, {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}):
        done = shell(f"halfbyte generate {talking_model} -p - -n 2 {SMALL} {given}", **locale)
        assert why in one_line(done, 2)


def test_an_argument_that_is_no_text_is_one_line(talking_model: Path) -> None:
    odd = "$(printf '\\377')"
    one_line(shell(f"halfbyte generate {talking_model} -p {odd} -n 2 {SMALL}"), 2)
    one_line(shell(f"halfbyte inspect {odd}"), 2)


def test_a_directory_whose_name_is_no_text_is_imported(tmp_path: Path) -> None:
    TinyGguf().write(tmp_path / "m.gguf")
    done = shell(
        f"cd {tmp_path}; mv m.gguf $(printf 'm\\377.gguf');"
        f" halfbyte convert $(printf 'm\\377.gguf') $(printf 'c\\377') &&"
        f" halfbyte inspect $(printf 'c\\377') --json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["source"]["name"] == "m?.gguf"


HOMES = {
    "a user that is not there": ("'~nobody-here/model.gguf'", {}, "~nobody-here"),
    "a home that cannot be made": ("MODEL", {"HOME": "/proc/nowhere"}, "set HALFBYTE_CACHE"),
    "a cache of no user": ("MODEL", {"HALFBYTE_CACHE": "~nobody-here/x"}, "set HALFBYTE_CACHE"),
}


@pytest.mark.parametrize("kind", HOMES)
def test_no_home_is_one_line(tmp_path: Path, kind: str) -> None:
    model = TinyGguf().write(tmp_path / "m.gguf")
    what, environment, why = HOMES[kind]
    command = f"halfbyte inspect {what}".replace("MODEL", str(model))
    given = {"HALFBYTE_CACHE": "", "XDG_CACHE_HOME": "", **environment}
    assert why in one_line(shell(command, **given), 2)


def test_a_user_without_a_name_and_a_home_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in containers; models that need no cache run."""

    def unknown(uid: int) -> None:
        raise KeyError(uid)

    for name in ("HOME", "HALFBYTE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    model = TinyGguf().write(tmp_path / "m.gguf")
    assert run(["inspect", str(model)]) == 2
    assert "set HALFBYTE_CACHE" in capsys.readouterr().err
    assert run(["convert", str(model), str(tmp_path / "c")]) == 0
    monkeypatch.setattr("halfbyte.api.candidates.cache_directory", cache_directory)
    assert run(["generate", str(tmp_path / "c"), "-p", "x", "-n", "2", *SMALL.split()]) == 0


def test_a_working_directory_that_is_gone_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    done = shell(f"cd {tmp_path}/gone; rmdir {tmp_path}/gone; halfbyte inspect no-such-model")
    one_line(done, 2)
