"""Charts as SVG: nothing to install, and they open anywhere."""

import math
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from itertools import cycle

COLOURS = ("#8a8a8a", "#c2c2c2", "#3b7dd8", "#d9652b", "#2a9d6f", "#8e5bb5", "#b08900", "#444444")
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 26, 34  # margins, in pixels

Lines = dict[str, list[tuple[float, float]]]
Bars = dict[str, list[tuple[float, float | None] | None]]


def lines(title: str, series: Lines, across: str, width: int = 336, height: int = 210) -> str:
    """Curves: each series is a list of (x, y). Nothing where there are none."""
    points = [point for of in series.values() for point in of]
    if not points:
        return ""
    low, high = _bounds([x for x, _ in points])
    frame = _Frame(title, width, height, *_bounds([y for _, y in points]))

    def place(x: float, y: float) -> tuple[float, float]:
        return LEFT + (width - LEFT - RIGHT) * (x - low) / (high - low), frame.y(y)

    for text, x in ((f"{low:g}", LEFT), (across, (LEFT + width - RIGHT) / 2), (f"{high:g}", width - RIGHT)):
        frame.under(x, text)
    for (name, of), colour in zip(series.items(), cycle(COLOURS[2:]), strict=False):
        path, (x, y) = " ".join("{:.1f},{:.1f}".format(*place(*point)) for point in of), place(*of[-1])
        frame.draw("polyline", fill="none", stroke=colour, stroke_width=1.6, points=path)
        frame.draw("circle", name, cx=x, cy=y, r=2.4, fill=colour)
    return frame.svg(series, COLOURS[2:])


def bars(title: str, groups: list[str], series: Bars, levels: list[float | None], marks: dict[str, list]) -> str:
    """Bars in groups, in percent: a value (and a deviation) or None for each group, in each series.

    `levels` are horizontal lines over a group (the teacher), `marks` published values, by series.
    """
    width = max(340, LEFT + 6 * len(title), LEFT + RIGHT + len(groups) * (16 * len(series) + 20))
    frame = _Frame(title, width, 280, 0, max([100.0] + [value[0] for of in series.values() for value in of if value]))
    room = (width - LEFT - RIGHT) / len(groups)
    thick = 0.8 * room / len(series)
    for group, name_of_group in enumerate(groups):
        left = LEFT + room * (group + 0.1)
        frame.under(left + 0.4 * room, name_of_group)
        for index, (name, of) in enumerate(series.items()):
            x, where, mark = left + thick * index, f"{name}, {name_of_group}", marks[name][group]
            middle, (mean, deviation) = x + 0.46 * thick, of[group] or (None, None)
            if mean is not None:
                told = f"{where}: {mean:.1f}" + ("" if deviation is None else f" ± {deviation:.1f}")
                size = {"width": 0.92 * thick, "height": frame.y(0) - frame.y(mean)}
                frame.draw("rect", told, x=x, y=frame.y(mean), fill=COLOURS[index % len(COLOURS)], **size)
            if deviation:
                ends = max(mean - deviation, 0), min(mean + deviation, 100)
                frame.draw("line", x1=middle, y1=frame.y(ends[0]), x2=middle, y2=frame.y(ends[1]), stroke="black")
            if mark is not None:
                diamond = f"M{middle:.1f} {frame.y(mark) - 4:.1f}l4 4l-4 4l-4 -4z"
                frame.draw("path", f"paper, {where}: {mark:.1f}", d=diamond, fill="white", stroke="black")
        if levels[group] is not None:
            dashed = {"stroke": "black", "stroke_dasharray": "5 3", "stroke_width": 1.6}
            frame.level(levels[group], left, left + 0.8 * room, **dashed)
    return frame.svg(series, COLOURS)


class _Frame:
    """The picture: its title, and a horizontal line for each of about five round numbers that span low to high."""

    def __init__(self, title: str, width: int, height: int, low: float, high: float):
        rough = (high - low) / 4
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
        ticks = [round(step * index, 10) for index in range(int(low // step), int(-(-high // step)) + 1)]
        self.width, self.height, self.low, self.high = width, height, ticks[0], ticks[-1]
        self.root = ET.Element("svg", xmlns="http://www.w3.org/2000/svg", role="img")
        self.root.attrib["font-family"] = "sans-serif"
        ET.SubElement(self.root, "title").text = title
        self.draw("rect", width="100%", height="100%", fill="white")
        self.text(LEFT, 14, title, "start", 12)
        for tick in ticks:
            self.level(tick, LEFT, width - RIGHT)
            self.text(LEFT - 5, self.y(tick) + 3, f"{tick:g}", "end")

    def y(self, value: float) -> float:
        """A value's place down the page."""
        return TOP + (self.height - TOP - BOTTOM) * (self.high - value) / (self.high - self.low)

    def draw(self, shape: str, told: str = "", **attributes: str | float) -> ET.Element:
        """A shape, which tells `told` under the pointer."""
        put = {name.replace("_", "-"): value for name, value in attributes.items()}
        put = {name: f"{value:.1f}" if isinstance(value, float) else str(value) for name, value in put.items()}
        element = ET.SubElement(self.root, shape, put)
        if told:
            ET.SubElement(element, "title").text = told
        return element

    def text(self, x: float, y: float, text: str, anchor: str, size: int = 10) -> None:
        self.draw("text", x=x, y=y, font_size=size, text_anchor=anchor).text = text

    def under(self, x: float, text: str) -> None:
        """A text below the chart."""
        self.text(x, self.height - BOTTOM + 14, text, "middle")

    def level(self, value: float, left: float, right: float, **style: str | float) -> None:
        """A horizontal line."""
        self.draw("line", x1=left, y1=self.y(value), x2=right, y2=self.y(value), **{"stroke": "#ddd"} | style)

    def svg(self, names: dict, colours: Sequence[str]) -> str:
        """The picture with its legend."""
        x, y = LEFT, self.height - 5
        for name, colour in zip(names, cycle(colours), strict=False):
            wide = 22 + 5.6 * len(name)
            if x > LEFT and x + wide > self.width:
                x, y = LEFT, y + 15
            self.draw("rect", x=x, y=y - 8, width=9, height=9, fill=colour)
            self.text(x + 12, y, name, "start")
            x += wide
        self.root.attrib |= {"width": f"{self.width}", "height": f"{y + 5}", "viewBox": f"0 0 {self.width} {y + 5}"}
        return ET.tostring(self.root, encoding="unicode")


def _bounds(values: list[float]) -> tuple[float, float]:
    """The least and the greatest, apart."""
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)
