"""Plots as SVG that takes its colours from the page, each with a text that says the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tfcompress.reporting.findings import Histogram
from tfcompress.reporting.page.markup import Markup, element

WIDTH, HEIGHT = 360, 250
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 34, 44


@dataclass(frozen=True)
class Point:
    """A model in a plot.

    Attributes:
        number: its number in the table.
        name: its name.
        x: the cost, less is better.
        y: the gain, more is better (`better_below` turns it).
    """

    number: int
    name: str
    x: float
    y: float


def pareto(points: Sequence[Point], *, better_below: bool = False) -> list[Point]:
    """The points that no other beats in both, by rising x."""
    sign = 1 if better_below else -1
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.x, sign * p.y)):
        if not front or sign * point.y < sign * front[-1].y:
            front.append(point)
    return front


def scatter(
    points: Sequence[Point], x_label: str, y_label: str, key: str, *, better_below: bool = False
) -> Markup:
    """Models as numbered points, and a line through those that no other beats in both."""
    front = pareto(points, better_below=better_below)
    xs, ys = _ticks([p.x for p in points], zero=True), _ticks([p.y for p in points])
    across = _scale(xs, LEFT, WIDTH - RIGHT)
    up = _scale(ys, HEIGHT - BOTTOM, TOP)
    parts = []
    for value in ys:
        place = round(up(value), 1)
        parts.append(element("line", class_="grid", x1=LEFT, x2=WIDTH - RIGHT, y1=place, y2=place))
        parts.append(element("text", _figure(value), x=LEFT - 6, y=place + 4, class_="end"))
    for value in xs:
        place = round(across(value), 1)
        parts.append(
            element("text", _figure(value), x=place, y=HEIGHT - BOTTOM + 16, class_="middle")
        )
    parts.append(
        element("text", x_label, x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 8, class_="middle label")
    )
    parts.append(element("text", y_label, x=4, y=14, class_="label"))
    line = " ".join(f"{across(p.x):.1f},{up(p.y):.1f}" for p in front)
    if len(front) > 1:
        parts.append(element("polyline", class_="front", points=line))
    groups = _together(points, across, up)
    taken = [(x - 8, y - 8, x + 8, y + 8) for x, y, _ in groups]
    for x, y, group in groups:
        kind = "best" if any(point in front for point in group) else "other"
        parts.append(element("circle", class_=kind, cx=x, cy=y, r=6))
        text = ", ".join(str(point.number) for point in group[:3])
        text += f" +{len(group) - 3}" if len(group) > 3 else ""
        left, baseline = _free_place(x, y, 8 * len(text), taken)
        parts.append(element("text", text, x=left, y=baseline, class_="number"))
    said = "; ".join(f"{p.number}, {p.name}: {_figure(p.x)}, {_figure(p.y)}" for p in points)
    best = ", ".join(str(p.number) for p in front)
    text = f"{y_label} by {x_label}. {said}. No other model is better in both than: {best}."
    return _svg(f"{y_label} by {x_label}", text, parts, key, WIDTH, HEIGHT)


def bars(histogram: Histogram, name: str, key: str) -> Markup:
    """A histogram of weights."""
    width, height, bottom = 360, 120, 22
    most = max(histogram.counts) or 1
    step = width / len(histogram.counts)
    parts = []
    for place, count in enumerate(histogram.counts):
        tall = (height - bottom) * count / most
        parts.append(
            element(
                "rect",
                class_="bin",
                x=round(place * step + 0.5, 1),
                y=round(height - bottom - tall, 1),
                width=round(step - 1, 1),
                height=round(tall, 1),
            )
        )
    parts.append(
        element("line", class_="axis", x1=0, x2=width, y1=height - bottom, y2=height - bottom)
    )
    parts.append(element("text", _figure(histogram.low), x=0, y=height - 6))
    parts.append(element("text", _figure(histogram.high), x=width, y=height - 6, class_="end"))
    if histogram.low < 0 < histogram.high:
        zero = -histogram.low / (histogram.high - histogram.low) * width
        parts.append(
            element("line", class_="axis", x1=zero, x2=zero, y1=height - bottom, y2=height - 18)
        )
        if 50 < zero < width - 50:
            parts.append(element("text", "0", x=round(zero, 1), y=height - 6, class_="middle"))
    total = sum(histogram.counts)
    mode = histogram.counts.index(max(histogram.counts))
    low, span = histogram.low, (histogram.high - histogram.low) / len(histogram.counts)
    text = (
        f"{total:,} weights other than 0 from {_figure(histogram.low)} to "
        f"{_figure(histogram.high)}, most between {_figure(low + mode * span)} and "
        f"{_figure(low + (mode + 1) * span)}; {histogram.zeros:,} are 0."
    )
    return _svg(f"Weights of {name}", text, parts, key, width, height)


def _svg(title: str, text: str, parts: list[Markup], key: str, width: int, height: int) -> Markup:
    return element(
        "svg",
        element("title", title, id=f"{key}-title"),
        element("desc", text, id=f"{key}-text"),
        parts,
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_labelledby=f"{key}-title",
        aria_describedby=f"{key}-text",
    )


def _together(
    points: Sequence[Point], across: Callable[[float], float], up: Callable[[float], float]
) -> list[tuple[float, float, list[Point]]]:
    """Points that would cover each other as one, with all their numbers."""
    groups: list[tuple[float, float, list[Point]]] = []
    for point in points:
        x, y = round(across(point.x), 1), round(up(point.y), 1)
        near = next((g for g in groups if abs(g[0] - x) < 9 and abs(g[1] - y) < 9), None)
        if near is None:
            groups.append((x, y, [point]))
        else:
            near[2].append(point)
    return groups


def _free_place(
    x: float, y: float, wide: float, taken: list[tuple[float, float, float, float]]
) -> tuple[float, float]:
    """Left end and baseline of a text beside a point, where it covers nothing; is then taken."""
    rows = (-7, 17, 5, -21, 31)
    places = [(side, row) for row in rows for side in (9, -wide / 2, -9 - wide)]
    boxes = [
        (x + side, y + row - 11, x + side + wide, y + row)
        for side, row in places
        if x + side > LEFT and x + side + wide < WIDTH
    ]
    free = [
        box
        for box in boxes
        if not any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3]
                   for b in taken)
    ]  # fmt: skip
    best = (free or boxes)[0]
    taken.append(best)
    return round(best[0], 1), round(best[3], 1)


def _ticks(values: Sequence[float], zero: bool = False) -> list[float]:
    """About five round numbers around the values, which differ by 2 % at least."""
    low, high = (0.0 if zero else min(values)), max(values)
    room = 0.01 * max(abs(low), abs(high)) or 1.0
    if high - low < 2 * room:
        middle = (low + high) / 2
        low, high = (0.0 if zero else middle - room), middle + room
    step = 10 ** math.floor(math.log10((high - low) / 5))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 5)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _scale(ticks: Sequence[float], start: float, end: float) -> Callable[[float], float]:
    """Where a value between the first and the last tick is drawn."""
    low, high = ticks[0], ticks[-1]
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
