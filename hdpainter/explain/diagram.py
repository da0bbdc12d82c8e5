"""The method as a drawn diagram, Fig. 2 of the paper: both stages, with PAIntA and RASG in their places.

Drawn with matplotlib's objects, in inches from the lower left corner.
"""

from collections.abc import Sequence
from textwrap import shorten
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, PathPatch, Polygon
from matplotlib.path import Path
from PIL import Image

WIDTH, HEIGHT, DPI = 16.0, 7.7, 130
INK, SOFT, LINE = "#20262d", "#626d78", "#c3cbd4"
PLAIN, PAINTA, RASG, UPSCALER = "#e9edf2", "#f7cb73", "#9ad0b1", "#c3bdea"
PANEL, GREEN = "#f8f9fb", "#2f7a52"

Point = tuple[float, float]


def diagram(
    picture: Image.Image, mask: np.ndarray, low: Image.Image, result: Image.Image, prompt: str
) -> Image.Image:
    """The diagram with a sample in it. picture: I; low, result: I^c of stage 1 and at last; all of them square.
    mask: bool [H, W] of I's size, True = fill.
    """
    with rc_context({"font.family": "DejaVu Sans", "mathtext.fontset": "dejavusans"}):
        figure = Figure((WIDTH, HEIGHT), dpi=DPI, facecolor="white")
        canvas = FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, WIDTH), ylim=(0, HEIGHT), autoscale_on=False)
        axes.set_axis_off()
        _stage_1(axes, picture, mask, prompt)
        _stage_2(axes, picture, low, result)
        _painta(axes)
        _rasg(axes)
        canvas.draw()
        return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def _stage_1(axes: Axes, picture: Image.Image, mask: np.ndarray, prompt: str) -> None:
    _panel(axes, (0.2, 2.85), 9.75, 4.7, "Stage 1", "image completion at H/4 × W/4")
    masked = Image.fromarray(np.where(mask[..., None], 127, np.asarray(picture)).astype(np.uint8))
    _picture(axes, masked, (0.5, 5.15), 1.3, "masked image $I^M$")
    _picture(axes, Image.fromarray(mask), (0.5, 3.3), 1.3, "mask $M$")
    _coder(axes, (2.15, 5.4), 0.5, 0.8, r"$\mathcal{E}$", shrinks=True)
    for y, name in ((5.6, "$x_t$"), (5.05, r"$\mathcal{E}(I^M)$"), (4.5, "$M$")):
        _box(axes, (3.05, y), 0.9, 0.42, name, PLAIN if name != "$x_t$" else "white")
    _arrow(axes, [(1.8, 5.8), (2.15, 5.8)])
    _arrow(axes, [(2.65, 5.8), (2.82, 5.8), (2.82, 5.26), (3.05, 5.26)])
    _arrow(axes, [(1.8, 3.95), (2.82, 3.95), (2.82, 4.71), (3.05, 4.71)])

    _arrow(axes, [(3.95, 5.26), (4.4, 5.26)])
    _unet(axes, (4.4, 5.26), (1.7, 1.3, 0.95, 0.65), 0.24, (PLAIN, PAINTA, PAINTA, PLAIN))
    axes.text(5.59, 6.28, "denoising UNet", fontsize=9.5, ha="center", weight="bold", color=INK)
    _swatch(axes, (4.5, 4.0), PAINTA)
    axes.text(4.74, 4.08, "with PAIntA", fontsize=8, va="center", color=INK)
    words = f"CLIP text encoder\nτ = “{shorten(prompt, 30, placeholder='…')}”"
    _box(
        axes, (4.5, 3.08), 2.08, 0.54, words, PLAIN, 7.5, parse_math=False
    )  # a user's dollar signs are no formulas
    _arrow(axes, [(5.54, 3.62), (5.54, 4.9)])
    axes.text(5.62, 3.78, "cross-attention", fontsize=8, va="center", color=SOFT)

    _arrow(axes, [(6.68, 5.26), (7.35, 5.26)])
    _box(axes, (7.35, 5.02), 1.0, 0.48, r"$x_0^{\,\mathrm{pred}},\ \epsilon_\theta$", "white", 10.5)
    _box(axes, (7.3, 3.75), 1.1, 0.6, "RASG", RASG, 11, weight="bold")
    _arrow(axes, [(7.85, 5.02), (7.85, 4.35)])
    _arrow(axes, [(5.88, 4.785), (5.88, 4.2), (7.3, 4.2)], colour=GREEN)
    axes.text(6.95, 4.33, r"$\bar{A}(x_t)$", fontsize=9, ha="center", va="center", color=GREEN)
    _arrow(axes, [(8.4, 4.05), (8.75, 4.05), (8.75, 6.75), (3.5, 6.75), (3.5, 6.02)])
    axes.text(6.0, 6.75, r" $x_{t-1}$ for $t = T, \ldots, 1$ ", fontsize=10, ha="center", va="center", color=INK,
              bbox={"fc": PANEL, "ec": "none", "pad": 1})  # fmt: skip
    _coder(axes, (9.15, 3.65), 0.5, 0.8, r"$\mathcal{D}$", shrinks=False)
    _arrow(axes, [(8.75, 4.05), (9.15, 4.05)])
    axes.text(8.95, 4.2, "$x_0$", fontsize=9.5, ha="center", color=INK)
    _arrow(axes, [(9.65, 4.05), (10.08, 4.05), (10.08, 5.65), (10.5, 5.65)])


def _stage_2(axes: Axes, picture: Image.Image, low: Image.Image, result: Image.Image) -> None:
    _panel(axes, (10.2, 2.85), 5.6, 4.7, "Stage 2", "inpainting super-resolution ×4")
    _picture(axes, low, (10.5, 5.05), 1.2, "$I^c_{low}$, noised")
    _picture(axes, picture, (10.5, 3.25), 1.2, "original $I$")
    _coder(axes, (12.0, 3.45), 0.5, 0.8, r"$\mathcal{E}$", shrinks=True)
    _arrow(axes, [(1.2 + 10.5, 3.85), (12.0, 3.85)])
    _arrow(axes, [(11.7, 5.65), (12.15, 5.65)])
    _unet(axes, (12.15, 5.65), (1.1, 0.8, 0.55), 0.2, (UPSCALER,) * 3)
    axes.text(12.84, 6.36, "x4 upscaler", fontsize=9.5, ha="center", weight="bold", color=INK)
    _box(
        axes,
        (13.0, 3.5),
        1.3,
        0.7,
        "$X_0^{\\mathrm{pred}} \\odot M\\ +$\n$\\mathcal{E}(I) \\odot (1 - M)$",
        UPSCALER,
        8.5,
    )
    axes.text(13.65, 3.34, "Eq. 10", fontsize=7.5, ha="center", va="center", color=SOFT)
    _arrow(axes, [(12.5, 3.85), (13.0, 3.85)])
    _arrow(axes, [(13.53, 5.65), (13.9, 5.65), (13.9, 4.2)])
    axes.text(13.97, 5.0, r"$X_0^{\mathrm{pred}}$", fontsize=9.5, va="center", color=INK)
    _arrow(axes, [(13.35, 4.2), (13.35, 4.72), (11.93, 4.72), (11.93, 5.45), (12.15, 5.45)])
    axes.text(12.62, 4.72, " $X_{t-1}$ ", fontsize=9.5, ha="center", va="center", color=INK,
              bbox={"fc": PANEL, "ec": "none", "pad": 0.5})  # fmt: skip
    _coder(axes, (14.62, 3.45), 0.45, 0.8, r"$\mathcal{D}$", shrinks=False)
    _arrow(axes, [(14.3, 3.85), (14.62, 3.85)])
    _picture(axes, result, (14.4, 5.05), 1.2, "$I^c$, joined with $I$")
    _arrow(axes, [(15.07, 3.85), (15.3, 3.85), (15.3, 4.72)])


def _painta(axes: Axes) -> None:
    _panel(axes, (0.2, 0.2), 7.7, 2.45, "PAIntA", "Prompt-Aware Introverted Attention", PAINTA)
    _box(axes, (0.5, 1.05), 0.5, 0.5, "$X$", "white", 11)
    _box(axes, (1.5, 1.45), 1.5, 0.45, "$A_{self} = Q_s K_s^\\top / \\sqrt{d}$", PLAIN, 8.5)
    _box(axes, (1.5, 0.6), 1.5, 0.45, "$S_{cross} = $ SoftMax$(A_{cross})$", PLAIN, 7.2)
    _arrow(axes, [(1.0, 1.3), (1.25, 1.3), (1.25, 1.67), (1.5, 1.67)])
    _arrow(axes, [(1.0, 1.3), (1.25, 1.3), (1.25, 0.82), (1.5, 0.82)])
    _box(axes, (3.4, 0.6), 1.85, 0.45, r"$c_j \propto \sum_{k \in ind(\tau)} [S_{cross}]_{jk}$", PLAIN, 8)
    _arrow(axes, [(3.0, 0.82), (3.4, 0.82)])
    _box(
        axes,
        (3.4, 1.35),
        2.3,
        0.65,
        "$\\tilde{A}_{ij} = c_j\\, A_{ij}$   $i$ to fill, $j$ known\n$\\tilde{A}_{ij} = A_{ij}$   otherwise",
        PAINTA,
        8.2,
    )
    _arrow(axes, [(3.0, 1.67), (3.4, 1.67)])
    _arrow(axes, [(4.32, 1.05), (4.32, 1.35)])
    _box(axes, (6.1, 1.42), 1.5, 0.5, r"SoftMax$(\tilde{A}_{self})\, V_s$", "white", 9)
    _arrow(axes, [(5.7, 1.67), (6.1, 1.67)])
    axes.text(5.5, 0.82, "pixels that have nothing to do with\nthe prompt are listened to less", fontsize=8,
              va="center", color=SOFT, style="italic")  # fmt: skip


def _rasg(axes: Axes) -> None:
    _panel(axes, (8.1, 0.2), 7.7, 2.45, "RASG", "Reweighting Attention Score Guidance", RASG)
    _box(axes, (8.4, 1.42), 1.0, 0.5, r"$\bar{A}(x_t)$", "white", 10)
    axes.text(8.9, 1.26, "scores at H/32 × W/32", fontsize=7.5, ha="center", va="center", color=SOFT)
    _box(axes, (9.75, 1.42), 1.75, 0.5, r"$S = \mathrm{BCE}(\sigma(\bar{A}),\, M)$", PLAIN, 8.5)
    _box(axes, (11.85, 1.42), 1.55, 0.5, r"$\nabla_{x_t} S \,/\, \mathrm{std}(\nabla_{x_t} S)$", RASG, 8.5)
    _arrow(axes, [(9.4, 1.67), (9.75, 1.67)])
    _arrow(axes, [(11.5, 1.67), (11.85, 1.67)])
    axes.text(
        14.05, 0.75, "in the place of\nDDIM's noise", fontsize=8, va="center", color=SOFT, style="italic"
    )
    update = (
        r"$x_{t-1}\ =\ \sqrt{\alpha_{t-1}}\; x_0^{\mathrm{pred}}\ +\ \sqrt{1 - \alpha_{t-1} - \sigma_t^2}\;\; "
        r"\epsilon_\theta\ \ -\ $"
    )
    axes.text(8.45, 0.75, update, fontsize=10.5, va="center", color=INK)
    _box(
        axes,
        (11.85, 0.42),
        2.0,
        0.66,
        r"$\sigma_t\ \nabla_{x_t} S \,/\, \mathrm{std}(\nabla_{x_t} S)$",
        RASG,
        10.5,
    )
    _arrow(axes, [(12.62, 1.42), (12.62, 1.08)], colour=GREEN)


def _panel(
    axes: Axes, corner: Point, width: float, height: float, title: str, about: str, mark: str = ""
) -> None:
    axes.add_patch(
        FancyBboxPatch(corner, width, height, "round,pad=0,rounding_size=0.12", fc=PANEL, ec=LINE, zorder=0)
    )
    x, y = corner[0] + 0.2, corner[1] + height - 0.27
    if mark:
        _swatch(axes, (x, y - 0.08), mark)
        x += 0.28
    drawn = axes.text(x, y, title, fontsize=11.5, weight="bold", va="center", color=INK)
    axes.figure.canvas.draw()
    right = axes.transData.inverted().transform(drawn.get_window_extent())[1][0]
    axes.text(right + 0.12, y, about, fontsize=10, va="center", color=SOFT)


def _swatch(axes: Axes, corner: Point, colour: str) -> None:
    axes.add_patch(
        FancyBboxPatch(corner, 0.16, 0.16, "round,pad=0,rounding_size=0.03", fc=colour, ec=INK, lw=0.6)
    )


def _box(
    axes: Axes,
    corner: Point,
    width: float,
    height: float,
    words: str,
    colour: str,
    size: float = 9.5,
    **style: Any,
) -> None:
    axes.add_patch(
        FancyBboxPatch(corner, width, height, "round,pad=0,rounding_size=0.07", fc=colour, ec=INK, lw=0.9)
    )
    x, y = corner[0] + width / 2, corner[1] + height / 2
    axes.text(x, y, words, fontsize=size, ha="center", va="center", color=INK, linespacing=1.5, **style)


def _picture(axes: Axes, picture: Image.Image, corner: Point, side: float, words: str) -> None:
    x, y = corner
    axes.imshow(picture, extent=(x, x + side, y, y + side), aspect="auto", cmap="gray", zorder=2)
    axes.add_patch(FancyBboxPatch(corner, side, side, "square,pad=0", fc="none", ec=INK, lw=0.9, zorder=3))
    axes.text(x + side / 2, y - 0.14, words, fontsize=8.5, ha="center", va="center", color=INK)


def _coder(axes: Axes, corner: Point, width: float, height: float, words: str, shrinks: bool) -> None:
    """The autoencoder's encoder, which narrows to the right, or its decoder."""
    x, y = corner
    tall, short = (0, 0.2), (0.2, 0)
    left, right = (tall[0], short[0]) if shrinks else (short[0], tall[0])
    ends = [(x, y + left), (x + width, y + right), (x + width, y + height - right), (x, y + height - left)]
    axes.add_patch(Polygon(ends, fc=PLAIN, ec=INK, lw=0.9, joinstyle="round"))
    axes.text(x + width / 2, y + height / 2, words, fontsize=12, ha="center", va="center", color=INK)


def _unet(axes: Axes, left: Point, heights: Sequence[float], width: float, colours: Sequence[str]) -> None:
    """An hourglass of bars, from `left` on, of these heights down to the middle and up again."""
    bars = [*zip(heights, colours, strict=True)]
    x, gap = left[0], 0.1
    for height, colour in [*bars, *bars[-2::-1]]:
        axes.add_patch(
            FancyBboxPatch(
                (x, left[1] - height / 2),
                width,
                height,
                "round,pad=0,rounding_size=0.05",
                fc=colour,
                ec=INK,
                lw=0.9,
            )
        )
        x += width + gap


def _arrow(axes: Axes, points: Sequence[Point], colour: str = INK) -> None:
    """A line through the points with round corners and a head at its end."""
    vertices, codes = [points[0]], [Path.MOVETO]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        for other in (before, after):
            step = np.subtract(other, corner)
            near = corner + step / np.linalg.norm(step) * min(0.1, np.linalg.norm(step) / 2)
            if other is before:
                vertices += [tuple(near), corner]
                codes += [Path.LINETO, Path.CURVE3]
            else:
                vertices.append(tuple(near))
                codes.append(Path.CURVE3)
    start = np.subtract(points[-1], points[-2])
    neck = tuple(np.subtract(points[-1], start / np.linalg.norm(start) * 0.06))
    axes.add_patch(
        PathPatch(
            Path([*vertices, neck], [*codes, Path.LINETO]), fc="none", ec=colour, lw=1.3, capstyle="butt"
        )
    )
    tail = tuple(np.subtract(points[-1], start / np.linalg.norm(start) * 0.12))
    axes.add_patch(
        FancyArrowPatch(
            tail, points[-1], arrowstyle="-|>", mutation_scale=10, color=colour, lw=1.3, shrinkA=0, shrinkB=0
        )
    )
