from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from typing import Any

import pytest
from benchmarks.measure.rows import Row, Spread
from benchmarks.report.plots import (
    all_plots,
    bits_plot,
    divergences,
    forward_plot,
    speed_plot,
    speed_points,
    streams_plot,
)
from benchmarks.report.svg import Axis, Canvas, decades, linear_ticks

from tests.benchmarks.measure.test_rows import make_row
from tests.benchmarks.report.test_results import planned


def scored(level: str, form: str, kl: float, **details: Any) -> Row:
    told = {"text": "wiki", "scheme": "rtn", "mean": kl, "held_to": "source", "weights": 1000}
    return make_row(cascade=level, format=form, metric="kl", details=told | details)


def texts(svg: str) -> list[str]:
    root = ElementTree.fromstring(svg)
    return [each.text or "" for each in root.iter() if each.tag.endswith("text")]


QUALITY = [
    scored("w8a16", "8 planes, group 32", 0.001),
    scored("w4a8", "8 planes, group 32", 0.1),
    scored("f32", "Q4_0", 0.2, scheme="Q4_0"),
    scored("w8a16", "8 planes, group 32", 0.0005, scheme="gptq"),
    scored("w8a16", "8 planes, group 32", 0.5, text="code"),
]


def test_auto_stands_at_the_divergence_of_its_target() -> None:
    rows = [planned(1, "w8a16", 10.0), planned(1, "auto", 12.0)]
    plain = [make_row(metric="decode 128 @ 16", cascade="w4a8", spread=Spread.of([20.0]))]
    points = {p.name: p for p in speed_points(rows, plain, QUALITY, "m")}
    assert (points["chat"].kl, points["chat"].speed) == (0.001, 12.0)
    assert points["w8a16"].kl == points["chat"].kl
    assert points["w4a8"].style.is_hollow, "of another run"
    assert not points["w8a16"].style.is_hollow
    assert {"chat", "w4a8", "w8a16"} <= set(texts(speed_plot(rows, plain, QUALITY)))


def test_what_has_no_score_is_not_drawn() -> None:
    plain = [make_row(metric="decode 128 @ 16", engine="llama.cpp", cascade="", format="Q8_0")]
    rows = [planned(1, "w8a16", 10.0), planned(1, "auto", 12.0)]
    assert "Q8_0" not in {p.name for p in speed_points(rows, plain, QUALITY, "m")}


def test_scores_of_one_plot_are_of_one_source() -> None:
    other = [
        make_row(model="m-off-grid", cascade="w8a16", format="8 planes", metric="kl",
                 details={"text": "wiki", "scheme": "rtn", "mean": 0.9})
    ]  # fmt: skip
    wanted = ["w8a16", "w4a8", "Q4_0"]
    found = divergences([*QUALITY, *other], "m", wanted)
    assert found == {"w8a16": 0.001, "w4a8": 0.1, "Q4_0": 0.2}
    assert divergences([*QUALITY, *other], "m", ["w8a16"]) == {"w8a16": 0.9}


def test_lines_go_through_what_was_measured() -> None:
    costs = [
        make_row(metric=f"forward {m} @ 128", unit="ms", spread=Spread.of([float(m)]))
        for m in (1, 4, 16)
    ]
    assert "halfbyte w4a8" in texts(forward_plot(costs))
    assert "16" not in texts(forward_plot(costs))
    serving = [make_row(metric=f"serve streams {n}") for n in (1, 32)]
    assert {"1", "32", "streams"} <= set(texts(streams_plot(serving)))
    assert forward_plot([]).startswith("<svg")


def test_bits_are_those_of_the_whole_file() -> None:
    row = make_row(model="m-off-grid", metric="kl", cascade="f32", format="Q4_0", bytes=625,
                   details=QUALITY[2].details)  # fmt: skip
    assert {"Q4_0", "5", "bits per weight"} <= set(texts(bits_plot([row])))


@pytest.mark.parametrize("name", sorted(all_plots()))
def test_the_plots_of_the_tree_are_drawn_the_same_every_time(name: str) -> None:
    draw = all_plots()[name]
    assert draw() == draw()
    ElementTree.fromstring(draw())


def test_an_axis_lays_values_over_pixels() -> None:
    line = Axis(0, 10, 100, 200, [], "")
    assert (line.at(0), line.at(5), line.at(10)) == (100, 150, 200)
    turned = Axis(1.0, 0.01, 0, 100, [], "", is_log=True)
    assert turned.at(0.1) == pytest.approx(50)


def test_ticks_are_round_and_reach_the_highest_value() -> None:
    assert [said for _, said in linear_ticks(427)] == ["0", "100", "200", "300", "400", "500"]
    assert linear_ticks(0.9)[-1][0] >= 0.9
    assert [said for _, said in decades(0.0004, 0.3)] == ["0.0001", "0.001", "0.01", "0.1", "1"]


def test_names_beside_marks_do_not_overlap() -> None:
    canvas = Canvas(100, 100, "")
    canvas.labels([(50, 50, "a"), (50, 52, "b"), (50, 90, "c")], to_the_left=True)
    heights = sorted(float(s.split('y="')[1].split('"')[0]) for s in canvas.shapes)
    assert all(b - a >= 12 for a, b in pairwise(heights))
