from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter

import pytest
from benchmarks.measure.variants import AUTO
from benchmarks.measure.workloads import Workload
from benchmarks.replay.decoding import Setting, read_offers, replay
from benchmarks.replay.host import CALL, SEQUENCE
from benchmarks.replay.recorded import Recording, read, record, write
from benchmarks.replay.recorded_runtime import Clock, forward_seconds

from benchmarks.measure import rows
from benchmarks.replay import decisions
from halfbyte.api.llm import LLM
from halfbyte.cascade import cycle
from halfbyte.config import Level
from halfbyte.errors import ArgumentError, SourceError
from tests.planner.simulation import table

TARGET = Level.parse("w8a16")
OFFER = "model:x@w4a8"
SETTING = Setting(TARGET, table(), table(), tokens=24)
PROMPTS = [Workload("free", f"{word} is what {word} has been " * 6, False) for word in "abcd"]


@pytest.fixture(scope="module")
def recordings(talking_llm: LLM) -> list[Recording]:
    levels = [Level.parse("w4a8")]
    return list(record(talking_llm.with_cascade("w8a16"), PROMPTS, 24, 6, levels))


def test_a_recording_has_what_the_model_says(
    talking_llm: LLM, recordings: list[Recording], tmp_path: Path
) -> None:
    assert len(recordings) == 4
    for recording in recordings:
        drafts = recording.drafts["w4a8"]
        assert len(recording.answer) == 24
        assert [len(draft) for draft in drafts] == [6] * 23
        # Where a draft is right, what it says next is what it says from there.
        text = [*recording.prompt, *recording.answer[:3]]
        assert recording.continues("w4a8", text) == drafts[2][0]
        if drafts[2][0] != recording.answer[3]:  # off the answer, along the draft
            assert recording.continues("w4a8", [*text, *drafts[2][:2]]) == drafts[2][2]
        assert recording.continues("w4a8", [*text, -5]) is None
    firsts = [draft[0] for r in recordings for draft in r.drafts["w4a8"]]
    right = [a == b for a, b in zip(firsts, _answered(recordings), strict=True)]
    assert sum(right) > len(right) / 4, "a level that agrees with its target now and then"
    write(tmp_path / "free.jsonl", recordings)
    assert read(tmp_path / "free.jsonl") == recordings
    with pytest.raises(SourceError, match="recordings"):
        read(tmp_path / "none.jsonl")


def _answered(recordings: list[Recording]) -> list[int]:
    return [token for recording in recordings for token in recording.answer[1:]]


def test_a_replay_is_decoding_on_a_clock_of_its_own(recordings: list[Recording]) -> None:
    first = replay(recordings, 1, SETTING)
    assert first == replay(recordings, 1, SETTING), "nothing in it is chance"
    assert cycle.perf_counter is perf_counter, "and time goes on as before"
    assert set(first) == {AUTO, *SETTING.fixed}
    plain, pair = first["w8a16"], first["w4a8 > w8a16 @3"]
    # One row at a context of these prompts' length, by the table's formulas, and the host's time
    # of a share of the cycles: plain ones run in bursts.
    for speed, recording in zip(plain, recordings, strict=True):
        seconds = forward_seconds(table(), "w8a16", [1], [len(recording.prompt) + 12])
        assert 1 / (seconds + CALL + SEQUENCE) < speed < 0.99 / seconds
    assert all(ours != theirs for ours, theirs in zip(pair, plain, strict=True))
    batch = replay(recordings, 2, SETTING, ["w8a16"])
    assert set(batch) == {"w8a16"}
    assert len(batch["w8a16"]) == 1
    assert batch["w8a16"][0] > 1.5 * max(plain)
    with pytest.raises(ArgumentError, match="--prompts"):
        replay(recordings, 16, SETTING)


def test_a_closed_batch_has_one_prompt_per_place(recordings: list[Recording]) -> None:
    closed = replace(SETTING, is_closed=True)
    assert len(replay(recordings, 2, closed, ["w8a16"])["w8a16"]) == 2
    assert len(replay(recordings, 4, closed, ["w8a16"])["w8a16"]) == 1


def test_the_clock_may_go_by_another_table_than_auto(recordings: list[Recording]) -> None:
    twice = replace(
        table(),
        linear={name: tuple(2 * t for t in curve) for name, curve in table().linear.items()},
    )
    slow = replay(recordings, 1, replace(SETTING, clock_table=twice), ["w8a16"])
    usual = replay(recordings, 1, SETTING, ["w8a16"])
    for ours, theirs in zip(slow["w8a16"], usual["w8a16"], strict=True):
        assert ours / theirs == pytest.approx(0.5, rel=0.05)


@pytest.fixture
def offered(recordings: list[Recording]) -> list[Recording]:
    """With a model beside the target, which is always right."""
    made = []
    for each in recordings:
        after = [[*each.answer[at:], *[0] * 24][:6] for at in range(1, len(each.answer))]
        made.append(replace(each, drafts={**each.drafts, OFFER: after}))
    return made


def test_a_model_beside_the_target_drafts_what_was_recorded_of_it(
    offered: list[Recording],
) -> None:
    setting = replace(SETTING, offers={OFFER: table()})
    assert f"{OFFER} > w8a16 @4" in setting.fixed
    assert set(SETTING.fixed) < set(setting.fixed)
    found = replay(offered, 1, setting, ["w8a16", f"{OFFER} > w8a16 @4", "w4a8 > w8a16 @4", AUTO])
    model, level = found[f"{OFFER} > w8a16 @4"], found["w4a8 > w8a16 @4"]
    assert sum(model) > 1.2 * sum(level), "it is always right"
    assert found[AUTO] != replay(offered, 1, SETTING, [AUTO])[AUTO], "auto may choose it"


def test_every_variant_of_a_replay_is_a_row_beside_the_best_fixed_one(
    offered: list[Recording], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "free.jsonl", offered)
    for name, more in (("table", {}), ("offer-0", {"stage": OFFER})):
        (tmp_path / f"{name}.json").write_text(json.dumps({**more, **asdict(table())}))
    assert read_offers(tmp_path) == {OFFER: table()}
    output = tmp_path / "rows.jsonl"
    command = ["x", str(tmp_path), "--name", "tiny", "--kinds", "free", "--batches", "1"]
    monkeypatch.setattr("sys.argv", [*command, "--tokens", "24", "--output", str(output)])
    decisions.main()
    details = {row.cascade: row.details or {} for row in rows.read([output])}
    assert {AUTO, "w8a16", f"{OFFER} > w8a16 @4"} <= set(details)
    speeds = {name: each["speedup"] for name, each in details.items()}
    best = max(speed for name, speed in speeds.items() if name != AUTO)
    assert speeds["w8a16"] == 1.0
    for name, each in details.items():
        assert each["of_best_fixed"] == pytest.approx(speeds[name] / best, abs=1e-3)
        assert speeds[each["best_fixed"]] == best
    (tmp_path / "table.json").write_text("{}")
    with pytest.raises(SourceError, match="--record"):
        decisions.main()


def test_a_clock_stands_still_by_itself() -> None:
    clock = Clock()
    with clock.everywhere():
        assert cycle.perf_counter() == 0.0
        clock.now += 2.5
        assert cycle.perf_counter() == 2.5
    assert cycle.perf_counter is perf_counter
