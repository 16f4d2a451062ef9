"""Charts as SVG, written by hand: nothing to install, and they open anywhere."""

import math
from dataclasses import dataclass, field
from html import escape
from itertools import cycle

COLOURS = ("#8a8a8a", "#c2c2c2", "#3b7dd8", "#d9652b", "#2a9d6f", "#8e5bb5", "#b08900", "#444444")
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 26, 34  # margins, in pixels


@dataclass(frozen=True)
class Lines:
    """Curves: each series is a list of (x, y)."""

    title: str
    series: dict[str, list[tuple[float, float]]]
    across: str
    width: int = 336
    height: int = 210

    def svg(self) -> str:
        """The curves as an SVG element; nothing where there are none."""
        points = [point for series in self.series.values() for point in series]
        if not points:
            return ""
        low_x, high_x = _bounds([x for x, _ in points])
        ticks = _ticks(*_bounds([y for _, y in points]))
        wide, height = self.width - LEFT - RIGHT, _scale(self.height, ticks)

        def place(x: float, y: float) -> tuple[float, float]:
            return LEFT + wide * (x - low_x) / (high_x - low_x), height(y)

        below, colours = self.height - BOTTOM + 14, COLOURS[2:]
        parts = [_text(x, below, text, "middle") for x, text in ((LEFT, f"{low_x:g}"), (LEFT + wide, f"{high_x:g}"))]
        parts.append(_text(LEFT + wide / 2, below, self.across, "middle"))
        for (name, series), colour in zip(self.series.items(), cycle(colours), strict=False):
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in series))
            x, y = place(*series[-1])
            parts += [
                f'<polyline fill="none" stroke="{colour}" stroke-width="1.6" points="{path}"/>',
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.4" fill="{colour}"><title>{escape(name)}</title></circle>',
            ]
        return _svg(self, ticks, parts, colours)


@dataclass(frozen=True)
class Bars:
    """Bars in groups, in percent: a value (and a deviation) or None for each group, in each series.

    `levels` are horizontal lines over a group (the teacher), `marks` published values, by series.
    """

    title: str
    groups: list[str]
    series: dict[str, list[tuple[float, float | None] | None]]
    levels: list[float | None]
    marks: dict[str, list[float | None]] = field(default_factory=dict)
    height: int = 280

    @property
    def width(self) -> int:
        """Room for every bar, and for the title."""
        return max(340, LEFT + 6 * len(self.title), LEFT + RIGHT + len(self.groups) * (16 * len(self.series) + 20))

    def svg(self) -> str:
        """The bars as an SVG element."""
        ticks = _ticks(0, max([100.0] + [value[0] for series in self.series.values() for value in series if value]))
        height, room = _scale(self.height, ticks), (self.width - LEFT - RIGHT) / len(self.groups)
        thick, parts = 0.8 * room / len(self.series), []
        for group, title in enumerate(self.groups):
            left = LEFT + room * (group + 0.1)
            parts.append(_text(left + 0.4 * room, self.height - BOTTOM + 14, title, "middle"))
            for index, (name, values) in enumerate(self.series.items()):
                x, where = left + thick * index, f"{escape(name)}, {escape(title)}"
                if values[group]:
                    parts += _bar(x, thick, *values[group], height, COLOURS[index % len(COLOURS)], where)
                mark = self.marks[name][group] if name in self.marks else None
                if mark is not None:
                    parts.append(
                        f'<path d="M{x + thick * 0.46:.1f} {height(mark) - 4:.1f}l4 4l-4 4l-4 -4z" fill="white" '
                        f'stroke="black"><title>paper, {where}: {mark:.1f}</title></path>'
                    )
            level = self.levels[group]
            if level is not None:
                y = height(level)
                parts.append(_line(left, y, left + 0.8 * room, y, 'stroke-dasharray="5 3" stroke-width="1.6"'))
        return _svg(self, ticks, parts, COLOURS)


def _bar(x: float, thick: float, mean: float, deviation: float | None, height, colour: str, where: str) -> list[str]:
    """A bar, and its deviation as a line over its middle."""
    told = f"{where}: {mean:.1f}" + ("" if deviation is None else f" ± {deviation:.1f}")
    bar = (
        f'<rect x="{x:.1f}" y="{height(mean):.1f}" width="{thick * 0.92:.1f}" '
        f'height="{height(0) - height(mean):.1f}" fill="{colour}"><title>{told}</title></rect>'
    )
    middle, low, high = x + thick * 0.46, max(mean - (deviation or 0), 0), min(mean + (deviation or 0), 100)
    return [bar, *([_line(middle, height(low), middle, height(high))] if deviation else [])]


def _svg(chart: Lines | Bars, ticks: list[float], parts: list[str], colours: tuple[str, ...]) -> str:
    """The whole: title, horizontal lines with their values, the parts, the legend."""
    height = _scale(chart.height, ticks)
    drawn = [_text(LEFT, 14, chart.title, "start", 12)]
    for tick in ticks:
        drawn.append(_line(LEFT, height(tick), chart.width - RIGHT, height(tick), 'stroke="#ddd"'))
        drawn.append(_text(LEFT - 5, height(tick) + 3, f"{tick:g}", "end"))
    x, y = float(LEFT), chart.height - 5
    for name, colour in zip(chart.series, cycle(colours), strict=False):
        wide = 22 + 5.6 * len(name)
        if x > LEFT and x + wide > chart.width:
            x, y = float(LEFT), y + 15
        parts.append(f'<rect x="{x:.0f}" y="{y - 8}" width="9" height="9" fill="{colour}"/>')
        parts.append(_text(x + 12, y, name, "start"))
        x += wide
    body = "\n".join([*drawn, *parts])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{chart.width}" height="{y + 5}" '
        f'viewBox="0 0 {chart.width} {y + 5}" role="img" font-family="sans-serif">'
        f'<title>{escape(chart.title)}</title>\n<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>'
    )


def _scale(height: int, ticks: list[float]):
    """From a value to its place down the page."""
    return lambda value: TOP + (height - TOP - BOTTOM) * (ticks[-1] - value) / (ticks[-1] - ticks[0])


def _text(x: float, y: float, text: str, anchor: str, size: int = 10) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, style: str = "") -> str:
    style = style if "stroke=" in style else f'stroke="black" {style}'
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {style}/>'


def _bounds(values: list[float]) -> tuple[float, float]:
    """The least and the greatest, apart."""
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers that span low to high."""
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    return [round(step * index, 10) for index in range(int(low // step), int(-(-high // step)) + 1)]
