"""Bar charts with intervals as inline SVG.

Everything horizontal is in per cent of the chart's width and everything vertical in pixels, so that a chart
fits any page without its text shrinking.
"""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

ROW, BAR, TOP, BOTTOM, LINE = 40, 12, 8, 26, 15  # pixels
FITTING = 42  # letters of a bar's label and value that a phone has room for in a line


@dataclass(frozen=True)
class Bar:
    """One bar. text: its value in words. low, high: ends of its interval, None if there is none. kind: a CSS
    class ("ours", "baseline", "method", "bound")."""

    label: str
    value: float
    low: float | None
    high: float | None
    text: str
    kind: str = "method"


def bar_chart(title: str, bars: Sequence[Bar], limits: tuple[float, float] | None = None) -> str:
    """Horizontal bars from zero, as an SVG element. limits: ends of the axis; by default round numbers around
    zero, all values and their intervals. `title` is read to those who do not see the chart."""
    ends = [end for bar in bars for end in (bar.value, bar.low, bar.high) if end is not None]
    low, high = limits or _round_limits(min(0.0, *ends), max(0.0, *ends))
    labels = [textwrap.wrap(bar.label, max(FITTING - len(bar.text), 12)) or [""] for bar in bars]
    height = TOP + sum(map(_room, labels)) + BOTTOM

    def x(value: float) -> str:
        return f"{100 * (min(max(value, low), high) - low) / (high - low):.2f}%"

    described = "; ".join(f"{bar.label}: {bar.text}" for bar in bars)
    parts = [
        f'<svg class="chart" width="100%" height="{height}" role="img" '
        f'aria-label="{escape(f"{title}. {described}")}">'
    ]
    for tick in _ticks(low, high):
        anchor = "start" if tick == low else "end" if tick >= high else "middle"
        parts.append(
            f'<line class="{"zero" if tick == 0 else "tick"}" x1="{x(tick)}" x2="{x(tick)}" y1="{TOP}" '
            f'y2="{height - BOTTOM + 4}"/><text class="axis" x="{x(tick)}" y="{height - 8}" '
            f'text-anchor="{anchor}">{escape(_number(tick))}</text>'
        )
    top = TOP
    for bar, lines in zip(bars, labels, strict=True):
        y = top + _room(lines) - ROW + 20
        middle = y + BAR / 2
        start, end = sorted((0.0, bar.value))
        width = 100 * (min(end, high) - max(start, low)) / (high - low)
        label = "".join(
            f'<tspan x="0" y="{top + 14 + LINE * i}">{escape(line)}</tspan>' for i, line in enumerate(lines)
        )
        parts.append(
            f'<g class="{bar.kind}"><title>{escape(f"{bar.label}: {bar.text}")}</title>'
            f"<text>{label}</text>"
            f'<text class="value" x="100%" y="{top + 14}" text-anchor="end">{escape(bar.text)}</text>'
            f'<rect class="bar" x="{x(start)}" y="{y}" width="{width:.2f}%" height="{BAR}" rx="2"/>'
        )
        if bar.low is not None and bar.high is not None:
            ends_y = f'y1="{y - 2}" y2="{y + BAR + 2}"'
            parts.append(
                f'<line class="interval" x1="{x(bar.low)}" x2="{x(bar.high)}" y1="{middle}" y2="{middle}"/>'
                f'<line class="interval" x1="{x(bar.low)}" x2="{x(bar.low)}" {ends_y}/>'
                f'<line class="interval" x1="{x(bar.high)}" x2="{x(bar.high)}" {ends_y}/>'
            )
        parts.append("</g>")
        top += _room(lines)
    return "".join([*parts, "</svg>"])


def _room(lines: Sequence[str]) -> int:
    """Height of a bar and its label, in pixels."""
    return ROW + LINE * (len(lines) - 1)


def _step(span: float) -> float:
    """A round step that divides `span` into three to six."""
    magnitude = 10 ** math.floor(math.log10(span / 3))
    return max(m * magnitude for m in (1, 2, 2.5, 5) if m * magnitude <= span / 3)


def _round_limits(low: float, high: float) -> tuple[float, float]:
    if low == high:
        return 0.0, 1.0
    step = _step(high - low)
    return step * math.floor(low / step), step * math.ceil(high / step)


def _ticks(low: float, high: float) -> list[float]:
    step = _step(high - low)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _number(value: float) -> str:
    return f"{value:.6g}".replace("-", "−")
