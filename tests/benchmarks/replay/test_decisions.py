from __future__ import annotations

from pathlib import Path
from time import perf_counter

import pytest
from benchmarks.measure.workloads import Workload
from benchmarks.replay.decisions import replay
from benchmarks.replay.recorded import Recording, read, record, write
from benchmarks.replay.recorded_runtime import Clock

from halfbyte.api.llm import LLM
from halfbyte.cascade import cycle
from halfbyte.config import Level
from halfbyte.errors import ArgumentError, SourceError
from tests.planner.simulation import table

TARGET = Level.parse("w8a16")
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
    first = replay(recordings, 1, 24, TARGET, table())
    assert first == replay(recordings, 1, 24, TARGET, table()), "nothing in it is chance"
    assert cycle.perf_counter is perf_counter, "and time goes on as before"
    plain, pair = first["w8a16"], first["w4a8 > w8a16 @3"]
    # One row at a context of these prompts' length, by the table's formulas.
    for speed, recording in zip(plain, recordings, strict=True):
        seconds = table().forward_seconds("w8a16", [1], [len(recording.prompt) + 12])
        assert speed == pytest.approx(1 / seconds, rel=0.02)
    assert all(ours != theirs for ours, theirs in zip(pair, plain, strict=True))
    batch = replay(recordings, 2, 24, TARGET, table())
    assert len(batch["w8a16"]) == 1
    assert batch["w8a16"][0] > 1.5 * max(plain)
    with pytest.raises(ArgumentError, match="--prompts"):
        replay(recordings, 16, 24, TARGET, table())


def test_a_clock_stands_still_by_itself() -> None:
    clock = Clock()
    with clock.everywhere():
        assert cycle.perf_counter() == 0.0
        clock.now += 2.5
        assert cycle.perf_counter() == 2.5
    assert cycle.perf_counter is perf_counter
