"""The plots of documents, made from rows: `docs/plots/*.svg`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from benchmarks.measure.rows import RESULTS, Row, read
from benchmarks.report.planner_tables import comparisons
from benchmarks.report.selection import (
    OURS,
    bits,
    last_machine,
    model_name,
    models,
    subject,
    subjects,
)
from benchmarks.report.serving_tables import STREAMS, streams_of
from benchmarks.report.speed_tables import rows_of
from benchmarks.report.svg import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    Axis,
    Canvas,
    Style,
    decades,
    linear_ticks,
)

WIDTH, HEIGHT = 840, 400  # pixels of a file with two panels
LEFT, PANEL = 70, 420  # of the first plotting area, from one to the next
AREA = 320  # its width
TOP, BOTTOM = 62, 300
TEXT_SCORED = "wiki"
AUTO = Style("halfbyte, auto", RED, "diamond")
PLAIN = Style("halfbyte, plain", BLUE)
PEERS = {
    "llama.cpp": Style("llama.cpp", GREY, "square"),
    "ik_llama.cpp": Style("ik_llama.cpp", ORANGE, "square"),
}


@dataclass(frozen=True, slots=True)
class Point:
    """One mark of the speed plot."""

    kl: float
    speed: float
    style: Style
    name: str  # level, file type or kind of work


def all_plots() -> Mapping[str, Callable[[], str]]:
    """File name -> what draws it."""
    return {
        "speed.svg": lambda: speed_plot(_rows("planner"), _rows("compare"), _quality()),
        "forward.svg": lambda: forward_plot(_rows("costs")),
        "streams.svg": lambda: streams_plot(_rows("serving")),
        "bits.svg": lambda: bits_plot(_quality()),
    }


def speed_plot(planner: Sequence[Row], plain: Sequence[Row], quality: Sequence[Row]) -> str:
    """Tokens per second of one stream over the divergence of the output from the source.

    `auto` at its target's divergence, a mark per kind of work; plain decoding and peers from the
    same runs, or else from `compare` (hollow). What has no score is not drawn.
    """
    panels = {model: speed_points(planner, plain, quality, model) for model in models(planner)}
    panels = {model: points for model, points in panels.items() if points}
    canvas = _canvas(len(panels), "Tokens per second against divergence from the source")
    for number, (model, points) in enumerate(panels.items()):
        ticks = decades(min(p.kl for p in points), max(p.kl for p in points))
        high = linear_ticks(max(p.speed for p in points) * 1.05)
        # From far to near: the corner to be in is the upper right one.
        x = _across(number, ticks[-1][0], ticks[0][0], ticks, "KL from the source", is_log=True)
        y = _upwards(high, "tokens/s, one stream")
        canvas.axes(x, y, model_name(model))
        for is_auto in (True, False):
            own = [point for point in points if (point.style is AUTO) == is_auto]
            for point in own:
                canvas.marker(x.at(point.kl), y.at(point.speed), point.style)
            marks = [(x.at(point.kl), y.at(point.speed), point.name) for point in own]
            canvas.labels(marks, to_the_left=not is_auto)
    _legend(canvas, [point.style for points in panels.values() for point in points])
    return canvas.render()


def speed_points(
    planner: Sequence[Row], plain: Sequence[Row], quality: Sequence[Row], model: str
) -> list[Point]:
    """The marks of one model."""
    own = [r for r in planner if r.model == model and r.metric.startswith("workload")]
    runs = [each for each in comparisons(last_machine(own)) if each.batch == 1]
    if not runs:
        return []
    same = {_name(r): r for r in (runs[0].plain, *runs[0].others, *runs[0].peers)}
    other = {_name(r): r for r in last_machine(plain) if _is_single(r) and r.model == model}
    single = other | same
    kl = divergences(quality, model, [file for _, file in single])
    points = [
        Point(kl[each.plain.cascade], each.auto.spread.median, AUTO, each.kind)
        for each in runs
        if each.plain.cascade in kl
    ]
    for name, row in single.items():
        if name[1] in kl:
            style = replace(PEERS.get(row.engine, PLAIN), is_hollow=name not in same)
            points.append(Point(kl[name[1]], row.spread.median, style, name[1]))
    return points


def divergences(quality: Sequence[Row], model: str, wanted: Sequence[str]) -> dict[str, float]:
    """KL from one source by level or file type; of a model's sources, that with most of `wanted`.

    Levels are those of `halfbyte convert`'s scheme (`rtn`).
    """
    found = []
    for source in (f"{model}-off-grid", model):
        scores = {}
        for row in quality:
            told = row.details or {}
            if row.model != source or row.metric != "kl" or told["text"] != TEXT_SCORED:
                continue
            if row.format.startswith("8 planes") and told["scheme"] == "rtn":
                scores[row.cascade] = float(told["mean"])
            elif "planes" not in row.format:
                scores[row.format.removesuffix("-pure")] = float(told["mean"])
        found.append({name: scores[name] for name in wanted if name in scores})
    return max(found, key=len)


def forward_plot(costs: Sequence[Row]) -> str:
    """Milliseconds of a forward by its rows: what a verification costs beside plain decoding."""
    rows = last_machine([row for row in costs if row.metric.startswith("forward")])
    shown = [row for row in rows if rows_of(row) <= 8 and row.cascade not in ("w4a4", "w8a8")]

    def across(number: int, counts: list[int]) -> Axis:
        return _across(number, 0.5, counts[-1] + 0.5, [(n, str(n)) for n in counts], "M, rows")

    title = "Milliseconds of a forward by its rows"
    return _by_count(shown, title, "ms per forward", rows_of, across)


def streams_plot(serving: Sequence[Row]) -> str:
    """Throughput of a server by its streams."""
    shown = last_machine([row for row in serving if row.metric.startswith(STREAMS)])

    def across(number: int, counts: list[int]) -> Axis:
        ticks = [(float(n), str(n)) for n in counts]
        return _across(number, counts[0] / 1.2, counts[-1] * 1.2, ticks, "streams", is_log=True)

    title = "Tokens per second of a server by its streams"
    return _by_count(shown, title, "tokens/s, all streams", streams_of, across)


def _by_count(
    shown: Sequence[Row],
    title: str,
    unit: str,
    count_of: Callable[[Row], int],
    across: Callable[[int, list[int]], Axis],
) -> str:
    """A panel per model with a line per subject; `across`: the axis of a panel's counts."""
    found = models(shown)
    canvas = _canvas(len(found), title)
    styles: dict[str, Style] = {}
    for number, model in enumerate(found):
        own = [row for row in shown if row.model == model]
        x = across(number, sorted({count_of(row) for row in own}))
        y = _upwards(linear_ticks(max(row.spread.median for row in own)), unit)
        canvas.axes(x, y, model_name(model))
        for name in subjects(own):
            line = sorted((r for r in own if subject(r) == name), key=count_of)
            style = styles.setdefault(_label(line[0]), _series(line[0]))
            canvas.series(x, y, style, [(count_of(r), r.spread.median) for r in line])
    _legend(canvas, list(styles.values()))
    return canvas.render()


def bits_plot(quality: Sequence[Row]) -> str:
    """Divergence from the source by bits per weight: checkpoints, and files of other programs."""
    shown = [
        row
        for row in quality
        if row.metric == "kl"
        and (row.details or {})["text"] == TEXT_SCORED
        and (row.details or {})["held_to"] == "source"
        and row.model.endswith("-off-grid")
        and not (row.format.startswith("8 planes") and row.cascade != "w8a16")
    ]
    found = models(shown)
    canvas = _canvas(len(found), "Divergence from the source by bits per weight")
    for number, model in enumerate(found):
        own = [row for row in shown if row.model == model]
        values = [float((row.details or {})["mean"]) for row in own]
        ticks = decades(min(values), max(values))
        x = _across(number, 4, 9, [(float(n), str(n)) for n in range(4, 10)], "bits per weight")
        y = Axis(ticks[0][0], ticks[-1][0], BOTTOM, TOP, ticks, "KL from the source", is_log=True)
        canvas.axes(x, y, model_name(model))
        marks = []
        for row, value in zip(own, values, strict=True):
            is_ours = "planes" in row.format
            at = x.at(8 * row.bytes / (row.details or {})["weights"]), y.at(value)
            canvas.marker(*at, PLAIN if is_ours else PEERS["llama.cpp"])
            marks.append((*at, _scheme(row) if is_ours else row.format))
        canvas.labels(marks, to_the_left=True)
    _legend(canvas, [Style("halfbyte", BLUE), PEERS["llama.cpp"]] if found else [])
    return canvas.render()


def _series(row: Row) -> Style:
    """A line over rows or streams: engines by mark and colour, 4 bits hollow and dashed."""
    is_four = bits(row) == 4
    if row.engine in PEERS:
        colour = PEERS[row.engine].colour
    else:
        colour = GREEN if row.cascade == "w4a16" else BLUE if is_four else RED
    marker = "circle" if row.engine == OURS else "square"
    return Style(_label(row), colour, marker, is_dashed=is_four, is_hollow=is_four)


def _label(row: Row) -> str:
    name = row.cascade or row.format.removesuffix("-pure")
    return f"{row.engine} {name}"


def _scheme(row: Row) -> str:
    scheme = str((row.details or {})["scheme"]).partition(":")[0]
    planes = row.format.partition(" ")[0]
    scales = "" if "int8" in row.format else ", f16 scales"
    return f"{scheme}, {planes} planes{scales}"


def _name(row: Row) -> tuple[str, str]:
    """Engine, and a level or a peer's file type."""
    return row.engine, row.cascade or row.format.removesuffix("-pure")


def _is_single(row: Row) -> bool:
    """Plain decoding of one stream at a short context."""
    return row.metric.startswith("decode") and row.metric.endswith("@ 16")


def _canvas(panels: int, title: str) -> Canvas:
    return Canvas(LEFT + max(1, panels) * PANEL - (PANEL - AREA) + 50, HEIGHT, title)


def _across(
    number: int,
    low: float,
    high: float,
    ticks: Sequence[tuple[float, str]],
    label: str,
    *,
    is_log: bool = False,
) -> Axis:
    start = LEFT + number * PANEL
    return Axis(low, high, start, start + AREA, ticks, label, is_log)


def _upwards(ticks: Sequence[tuple[float, str]], label: str) -> Axis:
    return Axis(0.0, ticks[-1][0], BOTTOM, TOP, ticks, label)


def _legend(canvas: Canvas, styles: Sequence[Style]) -> None:
    shown = list(
        {style.name: replace(style, is_hollow=style.is_dashed) for style in styles}.values()
    )
    each = max(1, (canvas.width - 30) // 150)  # entries per line
    for line in range(0, len(shown), each):
        canvas.legend(30, HEIGHT - 28 + 20 * (line // each), shown[line : line + each])
    canvas.height = HEIGHT - 10 + 20 * ((len(shown) - 1) // each)


def _rows(name: str) -> list[Row]:
    return read([RESULTS / f"{name}.jsonl"])


def _quality() -> list[Row]:
    return read([RESULTS / "quality" / "schemes.jsonl"])
