from dataclasses import replace
from typing import Any

from benchmarks.measure.rows import Row, Spread
from benchmarks.report.results import front_table, report

from tests.benchmarks.measure.test_rows import make_row

TOLD = {"speedup": 1.2, "speedup_interval": [1.1, 1.3], "of_best_fixed": 1.1, "identical": True}


def planned(day: int, cascade: str, value: float, **details: Any) -> Row:
    made = make_row(metric="workload chat x1", cascade=cascade, details=TOLD | details)
    date = f"2026-01-0{day}T00:00:00+00:00"
    return replace(made, date=date, spread=Spread.of([value]))


def test_a_table_shows_one_machine_and_names_it() -> None:
    def row(cpu: str, day: int, **values: Any) -> Row:
        other = replace(make_row(**values), date=f"2026-01-0{day}T00:00:00+00:00")
        return replace(other, machine=other.machine | {"cpu": cpu})

    text = report(
        [
            row("old", 1, metric="serve streams 1", cascade="w4a8", spread=Spread.of([11.0])),
            row("new", 2, metric="serve streams 1", cascade="w8a8", spread=Spread.of([22.0])),
            row("old", 1, metric="linear share", unit="of reading", spread=Spread.of([0.5])),
            row("old", 1, metric="linear gbs", unit="GB/s", spread=Spread.of([33.0])),
            row("old", 1, metric="linear bandwidth_gbs", unit="GB/s", spread=Spread.of([66.0])),
        ]
    )
    assert "22.0" in text
    assert "11.0" not in text
    assert "33.0" in text
    assert "**m**, on old" in text
    assert "new (family/model" in text


def test_plain_decoding_is_shown_on_every_machine() -> None:
    rows = [make_row(), make_row(machine=make_row().machine | {"cpu": "Another"})]
    text = report([replace(rows[1], date="2027"), rows[0]])
    assert text.count("decode 128 after 16") == 2


def test_only_what_leads_beyond_its_spread_is_bold() -> None:
    ours = make_row(spread=Spread.of([10.0, 11.0, 12.0]))
    peer = make_row(engine="peer", cascade="", format="Q4_0", spread=Spread.of([7.0, 8.0, 9.0]))
    eight = make_row(cascade="w8a8", spread=Spread.of([5.0, 5.1, 5.2]))
    text = report([ours, peer, eight])
    assert "**11.0 (10.4–11.6)**" in text
    assert "**5.1" not in text, "nothing of its bits stands beside it"
    assert "**11.0" not in report([ours, replace(peer, spread=Spread.of([7.0, 8.0, 12.0]))])


def test_an_output_that_differs_is_not_hidden() -> None:
    details = {"draft_length": 3, "speedup": 1.3, "tau": 3.0, "identical": False}
    row = make_row(metric="cascade code", cascade="w4a8 > w8a16 @3", details=details)
    assert "**no**" in report([row])


def test_cost_is_shown_against_one_row() -> None:
    rows = [
        make_row(metric=f"forward {count} @ 128", unit="ms", spread=Spread.of([value]))
        for count, value in ((1, 2.0), (4, 3.0))
    ]
    assert "3.00 (1.50)" in report(rows)


def test_a_gain_whose_interval_has_1_in_it_is_no_difference() -> None:
    rows = [planned(1, "w8a16", 11.0), planned(1, "auto", 12.0, speedup_interval=[0.9, 1.4])]
    assert "| ≈ (0.90–1.40) |" in report(rows)
    assert "1.20x (1.10–1.30)" in report([rows[0], planned(1, "auto", 12.0)])


def test_the_planner_is_held_to_cascades_of_its_own_run_and_target() -> None:
    rows = [
        planned(2, "w8a16", 11.0),
        planned(2, "auto", 22.0),
        planned(1, "ngram > w8a16", 33.0),
        planned(2, "w4a8", 44.0, target="w4a8"),
    ]
    text = report(rows)
    assert "22.0" in text
    assert "33.0" not in text
    assert "44.0" not in text
    assert "peer" not in text
    peer = replace(rows[0], engine="llama.cpp", cascade="", format="Q4_0", details=None)
    compared = [planned(2, row.cascade, row.spread.median, of_peer=2.0) for row in rows[:2]]
    assert "| llama.cpp Q4_0: 11.0 | 2.00x |" in report([*compared, peer])
    late = replace(peer, date="2026-01-03T00:00:00+00:00")
    assert "llama.cpp Q4_0: 11.0" not in report([*compared, late]), "of another run"


def test_what_was_offered_is_named() -> None:
    auto = "auto | model:small@w4a8"
    rows = [planned(1, "w8a16", 11.0), planned(1, auto, 22.0)]
    text = report([replace(row, metric="offered chat x1") for row in rows])
    assert f"**m**, `{auto}`" in text


def test_kinds_and_batches_stand_in_the_order_of_a_reader() -> None:
    rows = []
    for metric in ("workload code x1", "workload chat x16", "workload chat x4"):
        rows += [replace(planned(1, name, 9.0), metric=metric) for name in ("w8a16", "auto")]
    lines = [line for line in report(rows).splitlines() if line.startswith(("| chat", "| code"))]
    assert [line.split("|")[1:3] for line in lines] == [
        [" chat ", " 4 "],
        [" chat ", " 16 "],
        [" code ", " 1 "],
    ]


def test_the_front_table_has_peers_plain_decoding_and_the_planner() -> None:
    peer = replace(
        planned(1, "", 7.0), engine="llama.cpp", format="Q4_0", metric="workload chat x1"
    )
    text = front_table([planned(1, "w8a16", 10.0), planned(1, "auto", 12.0), peer])
    assert [line.split("|")[1].strip() for line in text.splitlines()[2:]] == [
        "llama.cpp Q4_0",
        "halfbyte, plain",
        "halfbyte, `auto`: chat",
    ]
    assert "**12** (1.20x)" in text


def test_the_front_table_borrows_an_eight_bit_peer_only_where_none_ran_beside_auto() -> None:
    ours = [planned(1, "w8a16", 10.0), planned(1, "auto", 12.0)]
    peer = replace(
        planned(1, "", 5.0), engine="llama.cpp", format="Q8_0", metric="workload chat x1"
    )
    other = replace(peer, metric="decode 128 @ 16", spread=replace(peer.spread, median=4.5))
    deep = replace(other, metric="decode 64 @ 4096", spread=replace(peer.spread, median=3.5))
    first = front_table([*ours, other, deep]).splitlines()[2]
    assert [cell.strip() for cell in first.split("|")[1:4]] == [
        "llama.cpp Q8_0, another run",
        "8 bits",
        "4.5",
    ]
    text = front_table([*ours, peer, other])
    assert "another run" not in text
    assert "| llama.cpp Q8_0 | 8 bits | 5 |" in text
