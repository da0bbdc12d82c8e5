"""Bar charts with intervals as HTML, group by group.

Labels and values are text of the page, so that the browser, which alone can measure them, wraps them; a bar below
each is inline SVG, horizontally in per cent of the chart's width, so that a chart fits any page.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

BAR, ROOM, AXIS = 12, 18, 18  # heights in pixels: of a bar, of what it stands in, of the numbers below all


@dataclass(frozen=True)
class Bar:
    """One bar. text: its value in words. low, high: ends of its interval, None if there is none. kind: a CSS
    class ("ours", "baseline", "method", "bound"). group: what it stands under, with its neighbours."""

    label: str
    value: float
    low: float | None
    high: float | None
    text: str
    kind: str = "method"
    group: str = ""


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float

    def x(self, value: float) -> str:
        return f"{100 * (min(max(value, self.low), self.high) - self.low) / (self.high - self.low):.2f}%"


def bar_chart(bars: Sequence[Bar], limits: tuple[float, float] | None = None) -> str:
    """Horizontal bars from zero, as an HTML element; where there are several groups of neighbours, each can be
    folded. limits: ends of the axis; by default round numbers around zero, all values and their intervals."""
    ends = [end for bar in bars for end in (bar.value, bar.low, bar.high) if end is not None]
    axis = _Axis(*(limits or _round_limits(min(0.0, *ends), max(0.0, *ends))))
    groups = [
        (name, "".join(_row(bar, axis) for bar in members))
        for name, members in itertools.groupby(bars, lambda bar: bar.group)
    ]
    if len(groups) == 1:
        rows = groups[0][1]
    else:
        rows = "".join(
            f'<details open=""><summary>{escape(name)}</summary>{content}</details>'
            for name, content in groups
        )
    return f'<div class="chart">{rows}{_numbers(axis)}</div>'


def _row(bar: Bar, axis: _Axis) -> str:
    """A bar below its label and value."""
    y, middle = (ROOM - BAR) / 2, ROOM / 2
    start, end = sorted((0.0, bar.value))
    width = 100 * (min(end, axis.high) - max(start, axis.low)) / (axis.high - axis.low)
    lines = "".join(
        f'<line class="{"zero" if tick == 0 else "tick"}" x1="{axis.x(tick)}" x2="{axis.x(tick)}" y1="0" '
        f'y2="{ROOM}"/>'
        for tick in _ticks(axis)
    )
    interval = ""
    if bar.low is not None and bar.high is not None:
        low, high, ends_y = axis.x(bar.low), axis.x(bar.high), f'y1="{y - 2}" y2="{y + BAR + 2}"'
        interval = (
            f'<g class="interval"><line x1="{low}" x2="{high}" y1="{middle}" y2="{middle}"/>'
            f'<line x1="{low}" x2="{low}" {ends_y}/><line x1="{high}" x2="{high}" {ends_y}/></g>'
        )
    return (
        f'<div class="bars {bar.kind}"><p><span class="label">{escape(bar.label)}</span> '
        f'<span class="value">{escape(bar.text)}</span></p>'
        f'<svg width="100%" height="{ROOM}" aria-hidden="true">{lines}'
        f'<rect class="bar" x="{axis.x(start)}" y="{y}" width="{width:.2f}%" height="{BAR}" rx="2"/>'
        f"{interval}</svg></div>"
    )


def _numbers(axis: _Axis) -> str:
    """The numbers of the axis."""
    texts = []
    for tick in _ticks(axis):
        anchor = "start" if tick == axis.low else "end" if tick >= axis.high else "middle"
        text = escape(_number(tick))
        texts.append(f'<text x="{axis.x(tick)}" y="{AXIS - 6}" text-anchor="{anchor}">{text}</text>')
    return f'<svg class="axis" width="100%" height="{AXIS}" aria-hidden="true">{"".join(texts)}</svg>'


def _step(span: float) -> float:
    """A round step that divides `span` into three to six."""
    magnitude = 10 ** math.floor(math.log10(span / 3))
    return max(m * magnitude for m in (1, 2, 2.5, 5) if m * magnitude <= span / 3)


def _round_limits(low: float, high: float) -> tuple[float, float]:
    if low == high:
        return 0.0, 1.0
    step = _step(high - low)
    return step * math.floor(low / step), step * math.ceil(high / step)


def _ticks(axis: _Axis) -> list[float]:
    step = _step(axis.high - axis.low)
    first = math.ceil(axis.low / step - 1e-9)
    return [k * step for k in range(first, math.floor(axis.high / step + 1e-9) + 1)]


def _number(value: float) -> str:
    return f"{value:.6g}".replace("-", "−")
