"""Grids of pictures and maps with titles and colour bars, drawn with matplotlib's objects (no global state).

All panels of a grid share one Axes whose unit is the inch; with an Axes for each, drawing takes several times as
long.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import matplotlib
import numpy as np
from contourpy import contour_generator
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.patches import Rectangle
from PIL import Image, ImageOps

COLOURS = matplotlib.colormaps["magma"]
# Over a picture: transparent where low.
OVER = ListedColormap(
    [(*matplotlib.colormaps["OrRd"](0.4 + 0.6 * v)[:3], 0.9 * v**0.7) for v in np.linspace(0, 1, 256)]
)

DPI = 110
MARGIN = 0.15  # inches, as all below
GAP = 0.08
LABELS = 1.8  # width that the labels of rows take at most
TITLE, HEADING, LABEL = 0.35, 0.25, 0.2  # heights of lines: of the figure, of a column, of a panel
BAR_BELOW, BAR_BESIDE = 0.45, 0.75


@cache
def _glyphs() -> frozenset[int]:
    """The characters, by their numbers, that the figures' font has."""
    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


def width_of(text: str, size: float = 10, weight: str = "normal") -> float:
    """The width of a line of text in inches, as the font has it. size: in points."""
    font = get_font(findfont(FontProperties(family="DejaVu Sans", weight=weight)))
    font.set_size(size, 72)
    font.set_text(text)
    return font.get_width_height()[0] / 64 / 72


def wrapped(text: str, width: float, size: float = 10, weight: str = "normal") -> str:
    """The text in lines of at most that many inches; a wider word is divided, at a hyphen where it has one."""
    lines = []
    for paragraph in text.split("\n"):
        line = ""
        for part in re.findall(r"\s+|[^\s-]*-+|[^\s-]+", paragraph):
            if width_of((line + part).rstrip(), size, weight) <= width:
                line += part
                continue
            if line.strip():
                lines.append(line.rstrip())
            line = part.lstrip()
            while width_of(line, size, weight) > width and len(line) > 1:
                fit = next(
                    n
                    for n in range(len(line) - 1, 0, -1)
                    if n == 1 or width_of(line[:n], size, weight) <= width
                )
                lines.append(line[:fit])
                line = line[fit:]
        lines.append(line.rstrip())
    return "\n".join(lines)


def readable(text: str, instead: str) -> str:
    """The text, or what stands for it where the font lacks its letters, as it does of many scripts."""
    return text if all(ord(letter) in _glyphs() for letter in text) else instead


@dataclass(frozen=True)
class Cell:
    """What one panel shows: a picture, or a map [h, w] in the colours of `scale`.

    side: pixels of the picture per value of the map, which may extend beyond the picture.
    under: a picture to lay the map over; the map is then transparent where it is low.
    mark: (x, y) of a pixel of the picture to show by a cross.
    """

    content: Image.Image | np.ndarray
    side: int = 1
    scale: Normalize | None = None
    under: Image.Image | None = None
    label: str = ""
    mark: tuple[int, int] | None = None


@dataclass(frozen=True)
class Bar:
    """A colour bar: below a column of the grid, or at its right side for all of it.

    over: whether it is for maps that lie over pictures. clipped: whether some values exceed the scale.
    ends: what to write at its ends, instead of the values.
    """

    scale: Normalize
    label: str = ""
    column: int | None = None
    over: bool = False
    clipped: bool = False
    ends: tuple[str, str] | None = None


class Panels:
    """Draws grids of panels of a mask's size (bool [h, w]) with its outline in every panel, so that one sees at a
    glance what happens inside and outside of it."""

    def __init__(self, mask: np.ndarray):
        self.height, self.width = mask.shape
        x, y = (np.arange(side + 2) - 0.5 for side in (self.width, self.height))
        self.outline: Any = contour_generator(x, y, np.pad(mask, 1).astype(float)).lines(0.5)

    def draw(
        self,
        title: str,
        cells: Sequence[Sequence[Cell | None]],
        rows: Sequence[str] = (),
        columns: Sequence[str] = (),
        bars: Sequence[Bar] = (),
        size: float = 1.75,
    ) -> Image.Image:
        """A figure with labels at the left and headings above; the longer side of a panel is `size` inches."""
        inch = size / max(self.width, self.height)
        width, height = self.width * inch, self.height * inch
        rows = [wrapped(row, LABELS, weight="bold") for row in rows]
        columns = [wrapped(heading, width, weight="bold") for heading in columns]
        labelled = LABEL * any(cell is not None and cell.label != "" for row in cells for cell in row)
        lines = [width_of(line, weight="bold") for row in rows for line in row.split("\n")]
        left = MARGIN + max((line + GAP for line in lines), default=0)
        top = MARGIN + TITLE * bool(title) + HEADING * max((1 + h.count("\n") for h in columns), default=0)
        count = max(len(row) for row in cells)
        right = left + count * (width + GAP)
        bottom = top + len(cells) * (height + GAP + labelled)
        below = BAR_BELOW * any(bar.column is not None for bar in bars)
        beside = BAR_BESIDE * any(bar.column is None for bar in bars)
        figure = new_figure(
            max(right + beside, MARGIN + width_of(title, 12, "bold")) + MARGIN, bottom + below + MARGIN
        )
        axes = _canvas(figure)

        _text(axes, MARGIN, MARGIN, title, size=12, weight="bold", va="top")
        corners = []
        for i, row in enumerate(cells):
            y = top + i * (height + GAP + labelled) + labelled
            for j, cell in enumerate(row):
                if cell is not None:
                    corner = left + j * (width + GAP), y
                    self._panel(axes, cell, *corner, inch)
                    corners.append(corner)
            if rows:
                _text(axes, left - GAP, y + height / 2, rows[i], weight="bold", ha="right", va="center")
        for j, heading in enumerate(columns):
            x = left + j * (width + GAP) + width / 2
            _text(axes, x, top - GAP / 2, heading, weight="bold", ha="center", va="bottom")
        self._outlines(axes, corners, inch)
        for bar in bars:
            if bar.column is None:
                box = right + GAP, top + labelled, 0.15, bottom - top - labelled - GAP
            else:
                box = left + bar.column * (width + GAP), bottom + GAP, width, 0.12
            _colour_bar(figure, bar, box)
        return rasterize(figure)

    def _panel(self, axes: Axes, cell: Cell, x: float, y: float, inch: float) -> None:
        width, height = self.width * inch, self.height * inch
        whole = (x, x + width, y + height, y)
        if isinstance(cell.content, Image.Image):
            axes.imshow(cell.content, extent=whole, aspect="auto")
        else:
            if cell.under is not None:
                pale = ImageOps.grayscale(cell.under).point(lambda value: 128 + value // 2)
                axes.imshow(pale.convert("RGB"), extent=whole, aspect="auto")
            h, w = (count * cell.side * inch for count in cell.content.shape)
            drawn = axes.imshow(
                cell.content,
                norm=cell.scale,
                cmap=COLOURS if cell.under is None else OVER,
                interpolation="nearest",
                extent=(x, x + w, y + h, y),
                aspect="auto",
            )
            drawn.set_clip_path(Rectangle((x, y), width, height, transform=axes.transData))
        if cell.mark is not None:
            at = [x + (cell.mark[0] + 0.5) * inch], [y + (cell.mark[1] + 0.5) * inch]
            for colour, size in (("black", 3.0), ("white", 1.5)):
                axes.plot(*at, marker="+", color=colour, markersize=9, markeredgewidth=size, zorder=3)
        if cell.label:
            _text(axes, x + width / 2, y - 0.03, cell.label, size=8, color="0.3", ha="center", va="bottom")

    def _outlines(self, axes: Axes, corners: Sequence[tuple[float, float]], inch: float) -> None:
        lines = [line * inch + corner for corner in np.array(corners) for line in self.outline]
        for colour, width in (("black", 2.0), ("white", 0.9)):
            axes.add_collection(LineCollection(lines, colors=colour, linewidths=width), autolim=False)


def ends(scale: Normalize) -> tuple[float, float]:
    """The lowest and the highest value of a scale."""
    assert scale.vmin is not None and scale.vmax is not None, "an open scale"
    return scale.vmin, scale.vmax


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that many inches."""
    return Figure(figsize=(width, height), dpi=DPI)


def rasterize(figure: Figure) -> Image.Image:
    """The figure as an RGB picture."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def stack_pictures(images: Sequence[Image.Image]) -> Image.Image:
    """Images below each other on white."""
    sheet = Image.new("RGB", (max(i.width for i in images), sum(i.height for i in images)), "white")
    top = 0
    for image in images:
        sheet.paste(image, (0, top))
        top += image.height
    return sheet


def _canvas(figure: Figure) -> Axes:
    """Axes over the whole figure, in inches from its upper left corner."""
    axes = figure.add_axes((0, 0, 1, 1))
    width, height = figure.get_size_inches()
    axes.set(xlim=(0, width), ylim=(height, 0), autoscale_on=False)
    axes.set_axis_off()
    return axes


def _text(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    axes.text(x, y, text, parse_math=False, **style)  # a user's dollar signs are no formulas


def _colour_bar(figure: Figure, bar: Bar, box: tuple[float, float, float, float]) -> None:
    """A bar in the box (x, y, width, height), in inches; a narrow one below a column only has its two ends."""
    x, y, width, height = box
    w, h = figure.get_size_inches()
    axes = figure.add_axes((x / w, 1 - (y + height) / h, width / w, height / h))
    below = bar.column is not None
    drawn = figure.colorbar(
        ScalarMappable(bar.scale, OVER if bar.over else COLOURS),
        cax=axes,
        orientation="horizontal" if below else "vertical",
        extend="max" if bar.clipped else "neither",
    )
    if below or bar.ends:
        places = ends(bar.scale)
        drawn.set_ticks(places, labels=bar.ends or [f"{place:.2g}" for place in places])
    if below:
        for text, side in zip(axes.get_xticklabels(), ("left", "right"), strict=True):
            text.set(ha=side)
    axes.tick_params(labelsize=8)
    drawn.set_label(bar.label, fontsize=9)
