"""Small plots as SVG text: no library, and the same bytes on every machine."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape

INK, FAINT, GRID = "#222222", "#666666", "#dddddd"
FONT = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"
TEXT, LABEL = 12, 11  # pixels
# Colour-blind safe (Okabe and Ito).
BLUE, RED, GREEN, ORANGE, GREY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#7F7F7F"


@dataclass(frozen=True, slots=True)
class Axis:
    """Values from `low` to `high` laid over pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    ticks: Sequence[tuple[float, str]]
    label: str
    is_log: bool = False

    def at(self, value: float) -> float:
        """The pixel of a value."""
        scale: Callable[[float], float] = math.log if self.is_log else float
        share = (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))
        return self.start + share * (self.end - self.start)


@dataclass(frozen=True, slots=True)
class Style:
    """How one series is drawn."""

    name: str
    colour: str
    marker: str = "circle"  # circle | square | diamond
    is_dashed: bool = False
    is_hollow: bool = False


@dataclass(slots=True)
class Canvas:
    """Shapes in the order they are drawn; y grows downwards."""

    width: int
    height: int
    title: str
    shapes: list[str] = field(default_factory=list)

    def text(
        self,
        x: float,
        y: float,
        said: str,
        *,
        anchor: str = "start",
        size: int = TEXT,
        colour: str = INK,
        bold: bool = False,
        turned: bool = False,
    ) -> None:
        """`y` is the base line; `turned`: from bottom to top."""
        weight = ' font-weight="600"' if bold else ""
        turn = f' transform="rotate(-90 {_px(x)} {_px(y)})"' if turned else ""
        self.shapes.append(
            f'<text x="{_px(x)}" y="{_px(y)}" text-anchor="{anchor}" font-size="{size}"'
            f' fill="{colour}"{weight}{turn}>{escape(said)}</text>'
        )

    def line(
        self,
        points: Sequence[tuple[float, float]],
        colour: str,
        *,
        width: float = 2,
        dash: str = "",
    ) -> None:
        """Straight pieces from point to point."""
        path = " ".join(f"{_px(x)},{_px(y)}" for x, y in points)
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        self.shapes.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}"'
            f' stroke-width="{width:g}"{dashed}/>'
        )

    def marker(self, x: float, y: float, style: Style, size: float = 4.5) -> None:
        """The mark of a series, `size` from its middle to its edge."""
        paint = f'fill="{"#ffffff" if style.is_hollow else style.colour}"'
        paint += f' stroke="{style.colour}" stroke-width="1.5"'
        if style.marker == "circle":
            self.shapes.append(f'<circle cx="{_px(x)}" cy="{_px(y)}" r="{size:g}" {paint}/>')
            return
        turn = f' transform="rotate(45 {_px(x)} {_px(y)})"' if style.marker == "diamond" else ""
        self.shapes.append(
            f'<rect x="{_px(x - size)}" y="{_px(y - size)}" width="{2 * size:g}"'
            f' height="{2 * size:g}" {paint}{turn}/>'
        )

    def axes(self, x: Axis, y: Axis, title: str) -> None:
        """Grid lines, ticks and labels of one panel."""
        for value, said in y.ticks:
            self.line([(x.start, y.at(value)), (x.end, y.at(value))], GRID, width=1)
            self.text(x.start - 8, y.at(value) + 4, said, anchor="end", colour=FAINT)
        for value, said in x.ticks:
            self.line([(x.at(value), y.start), (x.at(value), y.start + 4)], FAINT, width=1)
            self.text(x.at(value), y.start + 18, said, anchor="middle", colour=FAINT)
        self.line([(x.start, y.start), (x.end, y.start)], FAINT, width=1)
        middle = (x.start + x.end) / 2
        self.text(x.start, y.end - 14, title, bold=True, size=13)
        self.text(middle, y.start + 38, x.label, anchor="middle", colour=FAINT)
        height = (y.start + y.end) / 2
        self.text(x.start - 46, height, y.label, anchor="middle", colour=FAINT, turned=True)

    def series(self, x: Axis, y: Axis, style: Style, points: Sequence[tuple[float, float]]) -> None:
        """A line through its points, each with the mark of the series."""
        placed = [(x.at(a), y.at(b)) for a, b in points]
        if len(placed) > 1:
            self.line(placed, style.colour, dash="5 4" if style.is_dashed else "")
        for at in placed:
            self.marker(*at, style)

    def labels(self, marks: Sequence[tuple[float, float, str]], *, to_the_left: bool) -> None:
        """Names beside marks at (x, y), moved up or down where they would overlap."""
        heights: list[float] = []
        for x, y, name in sorted(marks, key=lambda mark: -mark[1]):
            placed = y + 4
            if heights and heights[-1] - placed < LABEL + 1:
                placed = heights[-1] - LABEL - 1
            heights.append(placed)
            side = -9 if to_the_left else 9
            anchor = "end" if to_the_left else "start"
            self.text(x + side, placed, name, anchor=anchor, size=LABEL, colour=FAINT)

    def legend(self, x: float, y: float, styles: Sequence[Style], *, apart: float = 150) -> None:
        """One entry per series, side by side from `x`."""
        for i, style in enumerate(styles):
            left = x + i * apart
            dash = "5 4" if style.is_dashed else ""
            self.line([(left, y - 4), (left + 22, y - 4)], style.colour, dash=dash)
            self.marker(left + 11, y - 4, style)
            self.text(left + 29, y, style.name)

    def render(self) -> str:
        """The whole file."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}"'
            f' width="{self.width}" height="{self.height}" font-family="{FONT}" role="img">'
        )
        ground = f'<rect width="{self.width}" height="{self.height}" rx="6" fill="#ffffff"/>'
        return "\n".join(
            [head, f"<title>{escape(self.title)}</title>", ground, *self.shapes, "</svg>\n"]
        )


def linear_ticks(high: float, count: int = 5) -> list[tuple[float, str]]:
    """Round values from 0 to at least `high`, about `count` steps."""
    rough = high / count
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * m for m in (1, 2, 2.5, 5, 10) if unit * m >= rough * 0.999)
    steps = math.ceil(high / step - 1e-9)
    return [(i * step, f"{i * step:g}") for i in range(steps + 1)]


def decades(low: float, high: float) -> list[tuple[float, str]]:
    """Powers of ten from at most `low` to at least `high`."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    return [(10.0**n, f"{10.0**n:g}") for n in range(first, last + 1)]


def _px(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
