"""The command as a user meets it: output, exit status, one line per mistake."""

from __future__ import annotations

import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from halfbyte import LLM, SamplingParams, __version__
from halfbyte.api.options import AsyncOptions
from halfbyte.cli.main import command, run
from halfbyte.cli.options import LlmOptions
from halfbyte.engine.options import EngineOptions
from halfbyte.proposers.options import NgramOptions
from halfbyte.runtime.options import RuntimeOptions
from halfbyte.runtime.protocol import SamplingRow
from halfbyte.server.options import ServeOptions
from tests.support.talking_model import write_talking_model
from tests.support.tiny_models import Kind

VERBS = sorted(command().commands)
SMALL = ["--num-tokens", "512", "--threads", "2"]


def _json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert run([*arguments, "--json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    values = json.loads(out)
    assert isinstance(values, dict)
    return values


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"halfbyte {__version__}\n"
    assert run([]) == run(["--help"]) == 0
    shown = capsys.readouterr().out
    for verb in VERBS:
        assert verb in shown
        assert run([verb, "--help"]) == 0
        assert len(capsys.readouterr().out.splitlines()) > 5


# Not shown: one prompt at a time has no use for these.
ALONE = {"max_batch", "prefill_rows"}
# Of a server, which has many requests.
LARGER = {"max_batch": 16, "num_tokens": 32768}


@pytest.mark.parametrize(
    ("verb", "left_out", "changed"),
    [("generate", ALONE, {}), ("bench", ALONE, {}), ("demo", ALONE, {}), ("serve", set(), LARGER)],
)
def test_verbs_show_every_option_of_the_library_with_its_default(
    verb: str, left_out: set[str], changed: dict[str, int]
) -> None:
    shown = {p.name: p.default for p in command().commands[verb].params}
    classes: list[Any] = [EngineOptions, RuntimeOptions]
    if verb == "generate":
        classes.append(SamplingParams)
        unshown = {f.name for f in fields(SamplingParams) if not f.metadata.get("shown")}
        assert unshown.isdisjoint(SamplingRow._fields)
        left_out = left_out | unshown
        changed = changed | {"temperature": 0.0, "max_tokens": 256, "stop": None}
    if verb == "serve":
        classes += [ServeOptions, AsyncOptions]
        left_out = left_out | {"api_keys", "cascades"}
        changed = changed | {"model_name": None, "cors_origins": None, "allowed_hosts": None}
    for cls in classes:
        expected = {f.name: f.default for f in fields(cls) if f.name not in left_out} | {
            name: value for name, value in changed.items() if name in cls.__dataclass_fields__
        }
        assert {name: shown.get(name, "missing") for name in expected} == expected
    assert not left_out & set(shown)
    assert LlmOptions()._ngram() == NgramOptions()


def test_generate_json_is_the_library_output(
    capsys: pytest.CaptureFixture[str], talking_model: Path
) -> None:
    arguments = ["generate", str(talking_model), "-p", "the end", "-n", "24", "--no-chat", *SMALL]
    got = _json(capsys, *arguments, "--ignore-eos", "--temperature", "0.7", "--seed", "5")
    params = SamplingParams(temperature=0.7, seed=5, max_tokens=24, ignore_eos=True)
    expected = LLM(talking_model, "w8a16", num_tokens=512).generate("the end", params)[0]
    assert got["token_ids"] == expected.token_ids
    assert got["logprobs"] == expected.logprobs
    assert got["text"] == expected.text
    assert got["cascade"] == "auto > w8a16"
    assert got["seconds"] >= got["prefill_seconds"] >= 0
    assert got["tokens_per_second"] > 0
    assert got["tau"] >= 1
    assert len(got["accepted_by_position"]) == len(got["proposed_by_position"])


@pytest.mark.parametrize("cascade", ["ngram > w8a16", "ngram > w4a8 > w8a16"])
def test_generate_json_tells_the_stages_apart(
    capsys: pytest.CaptureFixture[str], talking_model: Path, cascade: str
) -> None:
    arguments = ["generate", str(talking_model), "-p", "in the end, in the end, ", "-n", "24"]
    arguments += [*SMALL, "--ignore-eos", "-c", cascade, "-k", "8", "--inner-length", "3"]
    got = _json(capsys, *arguments)
    assert got["cascade"] == cascade
    stages = cascade.split(" > ")
    links = [f"{a} > {b}" for a, b in itertools.pairwise(stages)]
    assert set(got["links"]) == set(links)
    assert set(got["time_shares"]) == {*links, "verify", "host"}
    assert sum(got["time_shares"].values()) == pytest.approx(1.0)
    for link in got["links"].values():
        assert link["accepted_tokens"] <= link["draft_tokens"]
    plain = _json(capsys, *arguments[:-6], "-c", "w8a16")
    assert got["token_ids"] == plain["token_ids"]


def test_another_model_drafts_if_it_has_the_same_words(
    capsys: pytest.CaptureFixture[str], talking_model: Path
) -> None:
    arguments = ["generate", str(talking_model), "-p", "the end", "-n", "24", *SMALL]
    plain = _json(capsys, *arguments, "-c", "w8a16")
    got = _json(capsys, *arguments, "-c", f"model:{talking_model}@w4a8 > w8a16")
    assert got["token_ids"] == plain["token_ids"]
    assert got["logprobs"] == plain["logprobs"]
    assert got["accepted_tokens"] > 0
    offered = f"auto | model:{talking_model}@w4a8"
    got = _json(capsys, *arguments, "-c", offered)
    assert got["cascade"] == f"{offered} > w8a16"
    assert got["token_ids"] == plain["token_ids"]
    assert got["logprobs"] == plain["logprobs"]
    planned = _json(
        capsys, "plan", str(talking_model), "--tokens", "12", *SMALL, "-c", f"{offered} > w8a16"
    )
    named = {c["cascade"] for c in planned["candidates"]}
    assert f"model:{talking_model}@w4a8 > w8a16" in named
    assert f"model:{talking_model}@w4a8 > w8a16" in named


def test_a_model_with_other_words_is_refused(
    capsys: pytest.CaptureFixture[str], talking_model: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(talking_model, other)
    text = (other / "tokenizer.json").read_text(encoding="utf-8")
    assert '"<turn>": 258' in text or '"<turn>":258' in text
    swapped = text.replace('"th":259', '"th":260').replace('"the":260', '"the":259')
    assert swapped != text
    (other / "tokenizer.json").write_text(swapped, encoding="utf-8")
    cascade = f"model:{other}@w4a8 > w8a16"
    for text in (cascade, f"auto | {cascade}"):
        assert run(["generate", str(talking_model), "-p", "x", *SMALL, "-c", text]) == 2
        error = capsys.readouterr().err
        assert "token 259" in error
        assert error.count("\n") == 1


def test_generate_streams_the_text_to_stdout_and_the_rest_to_stderr(
    capsys: pytest.CaptureFixture[str], talking_model: Path
) -> None:
    arguments = ["generate", str(talking_model), "-p", "the", "-n", "9", "--chat", *SMALL]
    expected = _json(capsys, *arguments)
    assert run(arguments) == 0
    captured = capsys.readouterr()
    assert captured.out == expected["text"] + "\n"
    assert "auto > w8a16: 9 tokens" in captured.err


@pytest.mark.parametrize("how", ["option", "argument", "stdin", "dash"])
def test_a_model_with_a_chat_template_is_asked_however_the_prompt_comes(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    talking_model: Path,
    how: str,
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("the end"))
    given = {"option": ["-p", "the end"], "argument": ["the end"], "stdin": [], "dash": ["-"]}[how]
    got = _json(capsys, "generate", str(talking_model), *given, "-n", "9", *SMALL)
    messages = [{"role": "user", "content": "the end"}]
    params = SamplingParams(temperature=0.0, max_tokens=9)
    expected = LLM(talking_model, "w8a16", num_tokens=512).chat(messages, params)[0]
    assert got["prompt_token_ids"] == expected.prompt_token_ids
    assert got["token_ids"] == expected.token_ids


def test_a_model_without_a_chat_template_completes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    base = write_talking_model(tmp_path / "base", template=None)
    got = _json(capsys, "generate", str(base), "the", "-n", "2", *SMALL)
    llm = LLM(base, "w8a16", num_tokens=512)
    assert got["prompt_token_ids"] == llm.model.codec.encode("the")


def test_generate_picks_a_level_the_weights_have(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    four = write_talking_model(tmp_path / "four", kind=Kind(planes=4))
    assert (
        _json(capsys, "generate", str(four), "-p", "x", "-n", "2", *SMALL)["cascade"]
        == "auto > w4a16"
    )


def test_inspect_says_what_is_stored(
    capsys: pytest.CaptureFixture[str], talking_model: Path
) -> None:
    got = _json(capsys, "inspect", str(talking_model))
    assert (got["planes"], got["group_size"], got["weights"]) == (8, 32, "planes")
    assert got["levels"] == ["w4a4", "w4a8", "w4a16", "w8a8", "w8a16"]
    assert got["tokenizer"] is got["chat_template"] is True
    assert run(["inspect", str(talking_model)]) == 0
    assert "w8a16" in capsys.readouterr().out


def test_bench_has_a_row_per_cascade(
    capsys: pytest.CaptureFixture[str], talking_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("halfbyte.runtime.machine.measure_bandwidth", lambda threads: 20.0)
    arguments = ["bench", str(talking_model), "-n", "6", "--rounds", "1", "--threads", "2"]
    arguments += ["--cascade", "w8a16", "--cascade", "w4a8 > w8a16"]
    got = _json(capsys, *arguments)
    assert [row["cascade"] for row in got["rows"]] == ["w8a16", "w4a8 > w8a16"]
    for row in got["rows"]:
        assert set(row["tokens_per_second"]) == {"median", "p20", "p80"}
        assert row["identical"] is True
        assert row["bytes_per_token"] > 0
        assert row["share_of_bandwidth"] > 0
    assert run(arguments) == 0
    assert "alpha by draft position" in capsys.readouterr().out


def test_plan_shows_costs_candidates_and_choices(
    capsys: pytest.CaptureFixture[str], talking_model: Path
) -> None:
    arguments = ["plan", str(talking_model), "--tokens", "12", *SMALL]
    got = _json(capsys, *arguments)
    assert got["target"] == "w8a16"
    assert set(got["table"]["linear"]) == {"w8a16", "w4a8", "w4a16"}
    assert {c["cascade"] for c in got["candidates"]} >= {"w8a16", "w4a8 > w8a16", "ngram > w8a16"}
    assert run([*arguments, "--alpha", "0.9", "--cascade", "auto > w4a16"]) == 0
    shown = capsys.readouterr().out
    assert "w4a4 > w4a16" in shown
    assert "what is chosen" in shown


@pytest.mark.parametrize(
    "options",
    [
        ["--alpha", "1.5"],
        ["--alpha", "nan"],
        ["--tokens", "0"],
        ["--cascade", "w4a8 > w8a16"],
        ["--plot", "nowhere/at/all.png"],
        ["--plot", "plan.exe"],
    ],
)
def test_plan_says_what_is_wrong_with_an_option(
    capsys: pytest.CaptureFixture[str], talking_model: Path, options: list[str]
) -> None:
    assert run(["plan", str(talking_model), *options]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_doctor_reports_tier_threads_and_bandwidth(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("halfbyte.runtime.machine.measure_bandwidth", lambda threads: 20.0)
    monkeypatch.setattr("halfbyte.runtime.machine.measure_linear_rate", lambda threads, tier: 100.0)
    got = _json(capsys, "doctor", "--threads", "2")
    assert got["tier"] in got["tiers"]
    assert (got["threads"], got["read_gbs"], got["int8_gmacs"]) == (2, 20.0, 100.0)
    assert isinstance(got["missing"], list)
    assert run(["doctor"]) == 0
    assert "missing" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate"],
        ["generate", "MODEL"],
        ["generate", "MODEL", "-p", "x", "--temprature", "1"],
        ["generate", "MODEL", "-p", "x", "--temperature", "-1"],
        ["generate", "MODEL", "-p", "x", "--max-tokens", "many"],
        ["generate", "MODEL", "-p", "x", "--max-tokens", "0"],
        ["generate", "MODEL", "-p", "x", "--cascade", "w4a8 > w9"],
        ["generate", "MODEL", "-p", "x", "--cascade", "f32"],
        ["generate", "MODEL", "-p", "x", "--threads", "0"],
        ["generate", "MODEL", "-p", "x", "--num-tokens", "-5"],
        ["generate", "MODEL", "-p", "x" * 5000],
        ["generate", "no/such/model/here", "-p", "x"],
        ["inspect", "no-such-model"],
        ["convert", "no-such-file.gguf", "dest"],
        ["bench", "MODEL"],
        ["bench", "MODEL", "--cascade", "w8a16 > ngram"],
        ["bench", "MODEL", "--cascade", "w8a16", "--rounds", "0"],
        ["generate", "MODEL", "-p", "x", "--ngram", "3:2"],
        ["generate", "MODEL", "-p", "x", "--ngram", "many"],
        ["generate", "MODEL", "-p", "x", "--ngram-history", "-1"],
        ["generate", "MODEL", "-p", "x", "--inner-length", "-1"],
        ["generate", "MODEL", "-p", "x", "--cascade", "model:no/such@w4a8 > w8a16"],
        ["generate", "MODEL", "-p", "x", "--cascade", "model:MODEL@f32 > w8a16"],
        ["generate", "MODEL", "-p", "x", "--no-chat", "--system", "be brief"],
        ["generate", "MODEL", "x", "-p", "x"],
        ["report", "/dev/null"],
        ["train-eagle", "MODEL", "head", "--work", __file__],
        ["serve", "x" * 5000],
        ["demo", "MODEL", "--rounds", "0"],
        ["dance"],
        ["--fly"],
    ],
    ids=lambda a: " ".join(a)[:60],
)
def test_a_mistake_is_one_line_on_stderr_and_status_2(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    talking_model: Path,
    arguments: list[str],
) -> None:
    monkeypatch.setattr("halfbyte.runtime.machine.measure_bandwidth", lambda threads: 20.0)
    given = [str(talking_model) if a == "MODEL" else a for a in arguments]
    assert run(given) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("halfbyte: ")


def _start(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "halfbyte", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        # A shell runs what it starts in the background with SIGINT ignored.
        preexec_fn=_let_sigint_through,
    )


def _let_sigint_through() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_an_interrupt_is_quiet_and_130(tmp_path: Path) -> None:
    model = write_talking_model(tmp_path / "long", max_context=1 << 20)
    arguments = ["generate", str(model), "-p", "x", "-n", "1000000", "--ignore-eos"]
    with _start(*arguments, "--num-tokens", "1000000") as process:
        assert process.stdout is not None
        process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in err


def test_a_reader_that_leaves_is_not_a_traceback(tmp_path: Path) -> None:
    model = write_talking_model(tmp_path / "long", max_context=1 << 20)
    arguments = ["generate", str(model), "-p", "x", "-n", "1000000", "--ignore-eos"]
    with _start(*arguments, "--num-tokens", "1000000") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        err = process.stderr.read()
        process.wait(timeout=60)
    assert process.returncode == 1
    assert b"Traceback" not in err
    assert b"Exception" not in err
