"""Backgrounds of toy scenes: an upper part (sky, wall, ...) over a lower part (grass, water, ...)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from hdpainter.mini.world.canvas import Band, Colour, Pen, Shape, jitter, shade

Gradient = tuple[Colour, Colour]
Detail = Callable[[Pen, np.random.Generator, Gradient, float, float], None]


@dataclass(frozen=True)
class Backdrop:
    """The half of a background: its caption, its colours from top to bottom, and what is drawn on it."""

    caption: str
    gradient: Gradient
    detail: Detail


@dataclass(frozen=True)
class Background:
    """A drawn background; `horizon` is the height of the ground's far end (<= 0: all ground, >= 1: none)."""

    drawing: tuple[Shape | Band, ...]
    horizon: float
    captions: tuple[str, ...]


def _nothing(pen: Pen, rng: np.random.Generator, colours: Gradient, y0: float, y1: float) -> None:
    """A plain surface."""


def _skirting(pen: Pen, rng: np.random.Generator, colours: Gradient, y0: float, y1: float) -> None:
    if y1 < 1:
        pen.box(0, y1 - 0.035, 1, y1, shade(colours[1], 1.5))
        pen.box(0, y1 - 0.006, 1, y1, shade(colours[1], 0.8))


def _stripes(pen: Pen, rng: np.random.Generator, colours: Gradient, y0: float, y1: float) -> None:
    width = rng.uniform(0.06, 0.1)
    for x in np.arange(rng.uniform(-width, 0), 1, 2 * width):
        pen.box(x, y0, x + width, y1, shade(colours[0], 0.92))
    _skirting(pen, rng, colours, y0, y1)


def _clouds(pen: Pen, rng: np.random.Generator, colours: Gradient, y0: float, y1: float) -> None:
    _hills(pen, rng, (108, 146, 122), y1, chance=0.4)
    for _ in range(int(rng.integers(0, 4))):
        x, y, s = rng.uniform(0, 1), rng.uniform(y0 + 0.04, max(y1 - 0.15, y0 + 0.05)), rng.uniform(0.05, 0.1)
        for dx, dy, r in ((-1.0, 0.12, 0.62), (-0.2, -0.15, 0.75), (0.6, 0.0, 0.7), (1.3, 0.18, 0.5)):
            pen.ellipse(x + dx * s, y + dy * s, s * r, s * r * 0.62, (247, 250, 252))
        pen.box(x - 1.45 * s, y + 0.15 * s, x + 1.65 * s, y + 0.5 * s, (247, 250, 252), 0.16 * s)


def _hills(pen: Pen, rng: np.random.Generator, colour: Colour, y: float, chance: float) -> None:
    if y >= 1 or rng.random() > chance:
        return
    x = -0.1
    while x < 1.1:
        width = rng.uniform(0.15, 0.35)
        pen.ellipse(x, y, width, rng.uniform(0.05, 0.14), jitter(rng, colour, 8), 180, 360)
        x += width


def _evening(pen: Pen, rng: np.random.Generator, colours: Gradient, y0: float, y1: float) -> None:
    if rng.random() < 0.7:
        x, y = rng.uniform(0.15, 0.85), max(min(y1, 1) - rng.uniform(0.03, 0.12), 0.08)
        pen.ellipse(x, y, 0.115, 0.115, (255, 222, 158))
        pen.ellipse(x, y, 0.085, 0.085, (255, 242, 200))
    _hills(pen, rng, (146, 98, 98), y1, chance=0.5)


def _stars(pen: Pen, rng: np.random.Generator, colours: Gradient, y0: float, y1: float) -> None:
    for _ in range(10):
        x, y, r = rng.uniform(0, 1), rng.uniform(y0, y1), rng.uniform(0.005, 0.01)
        pen.polygon([(x - r, y), (x, y - r), (x + r, y), (x, y + r)], (242, 242, 214))
    if rng.random() < 0.5:
        x, y = rng.uniform(0.12, 0.88), rng.uniform(0.09, max(y1 - 0.15, 0.1))
        pen.ellipse(x, y, 0.06, 0.06, (246, 241, 208))
        pen.ellipse(x + 0.015, y - 0.012, 0.014, 0.014, (226, 220, 186))
    _hills(pen, rng, (38, 46, 72), y1, chance=0.4)


def _bricks(pen: Pen, rng: np.random.Generator, colours: Gradient, y0: float, y1: float) -> None:
    mortar, height, width = shade(colours[0], 1.5), 0.085, 0.17
    y, row = y0 - rng.uniform(0, height), 0
    while y < y1:
        top, bottom = max(y, y0), min(y + height, y1)
        if rng.random() < 0.6:  # a brick of another firing
            x = width * (int(rng.integers(0, 6)) + 0.5 * (row % 2))
            pen.box(x, top, min(x + width, 1), bottom, shade(colours[0], rng.choice([0.86, 1.1])))
        for x in np.arange(width * (0.5 if row % 2 else 0), 1, width):
            pen.box(x, top, x + 0.009, bottom, mortar)
        if y > y0:
            pen.box(0, y, 1, min(y + 0.009, y1), mortar)
        y, row = y + height, row + 1


def _blades(pen: Pen, rng: np.random.Generator, colours: Gradient, y0: float, y1: float) -> None:
    for _ in range(14):
        x, y, s = rng.uniform(0, 1), rng.uniform(max(y0, 0) + 0.03, 1), rng.uniform(0.018, 0.03)
        colour = shade(colours[1], 0.86)
        for dx, lean in ((-0.6, -0.35), (0, 0), (0.6, 0.35)):
            root, tip = x + dx * s, x + (dx + lean) * s
            pen.polygon(
                [(root - 0.22 * s, y), (tip, y - s * (1.5 - abs(lean))), (root + 0.22 * s, y)], colour
            )
    if rng.random() < 0.5:
        flower = ((252, 222, 92), (246, 246, 246), (240, 140, 180))[rng.integers(3)]
        for _ in range(5):
            x, y = rng.uniform(0, 1), rng.uniform(max(y0, 0) + 0.05, 1)
            pen.ellipse(x, y, 0.011, 0.009, flower)


def _waves(pen: Pen, rng: np.random.Generator, colours: Gradient, y0: float, y1: float) -> None:
    for _ in range(11):
        x, y, w = rng.uniform(0, 1), rng.uniform(max(y0, 0) + 0.03, 1), rng.uniform(0.03, 0.08)
        t = np.linspace(-1, 1, 9)
        crest = np.stack([x + w * t, y - 0.008 * np.cos(t * math.pi)], 1)
        pen.stroke(crest, 0.009, shade(colours[0], 1.4))


def _pebbles(pen: Pen, rng: np.random.Generator, colours: Gradient, y0: float, y1: float) -> None:
    for _ in range(12):
        x, y, r = rng.uniform(0, 1), rng.uniform(max(y0, 0) + 0.03, 1), rng.uniform(0.007, 0.014)
        pen.ellipse(x, y, r, r * 0.7, shade(colours[1], rng.uniform(0.8, 0.9)))


def _drifts(pen: Pen, rng: np.random.Generator, colours: Gradient, y0: float, y1: float) -> None:
    for _ in range(4):
        x, y, w = rng.uniform(0, 1), rng.uniform(max(y0, 0) + 0.06, 1), rng.uniform(0.15, 0.3)
        pen.ellipse(x, y, w, w * 0.14, shade(colours[1], 0.965), 180, 360)


def _lane(pen: Pen, rng: np.random.Generator, colours: Gradient, y0: float, y1: float) -> None:
    if y0 <= 0:
        pen.box(0.47, 0, 0.53, 1, (236, 232, 196))
        return
    pen.box(0, y0, 1, y0 + 0.022, shade(colours[0], 1.35))
    middle, first = (y0 + 1) / 2, rng.uniform(-0.2, 0)
    for x in np.arange(first, 1, 0.25):
        top, bottom = middle - 0.012, middle + 0.014
        dash = [(x + 0.01, top), (x + 0.13, top), (x + 0.14, bottom), (x, bottom)]
        pen.polygon(dash, (236, 232, 196))


def _planks(pen: Pen, rng: np.random.Generator, colours: Gradient, y0: float, y1: float) -> None:
    start = max(y0, 0)
    edges = start + (1 - start) * np.linspace(0, 1, 5) ** 1.3
    for a, b in pairwise(edges):
        pen.box(0, b - 0.007, 1, b, shade(colours[1], 0.8))
        x, w = rng.uniform(0.1, 0.9), rng.uniform(0.06, 0.14)
        pen.box(x - w, (a + b) / 2 - 0.004, x + w, (a + b) / 2 + 0.004, shade(colours[1], 0.9), 0.003)


UPPER: tuple[Backdrop, ...] = (
    Backdrop("under the sky", ((118, 178, 236), (206, 229, 247)), _clouds),
    Backdrop("under the sunset", ((232, 132, 92), (252, 208, 152)), _evening),
    Backdrop("under the night sky", ((24, 32, 70), (62, 74, 126)), _stars),
    Backdrop("in front of a brick wall", ((172, 92, 72), (164, 84, 66)), _bricks),
    Backdrop("in front of a wall", ((228, 217, 196), (214, 203, 182)), _skirting),
    Backdrop("in front of a blue wall", ((122, 164, 186), (108, 150, 174)), _stripes),
)
LOWER: tuple[Backdrop, ...] = (
    Backdrop("on grass", ((124, 182, 86), (82, 144, 62)), _blades),
    Backdrop("on sand", ((236, 213, 156), (218, 189, 128)), _pebbles),
    Backdrop("on water", ((74, 146, 200), (42, 102, 166)), _waves),
    Backdrop("on a road", ((128, 128, 134), (94, 94, 100)), _lane),
    Backdrop("on snow", ((240, 244, 250), (214, 224, 238)), _drifts),
    Backdrop("on a wooden table", ((196, 146, 96), (160, 112, 68)), _planks),
)
INDOOR = tuple(part for part in UPPER if part.caption.startswith("in front"))


def draw_background(rng: np.random.Generator) -> Background:
    """Choose and draw a background: four in five have both parts, the others are all ground or all wall."""
    lower = LOWER[rng.integers(len(LOWER))]
    choice = INDOOR if lower.caption == "on a wooden table" else UPPER
    upper = choice[rng.integers(len(choice))]
    kind = rng.random()
    horizon = 0.0 if kind < 0.1 else 1.0 if kind < 0.2 else rng.uniform(0.36, 0.62)
    drawing: list[Shape | Band] = []
    captions = []
    for part, y0, y1 in ((upper, 0.0, horizon), (lower, horizon, 1.0)):
        if y1 <= y0:
            continue
        top, bottom = (jitter(rng, colour, 9) for colour in part.gradient)
        pen = Pen()
        part.detail(pen, rng, (top, bottom), y0, y1)
        drawing += [Band(y0, y1, top, bottom), *pen.placed(0, 0, 1)]
        captions.append(part.caption)
    return Background(tuple(drawing), horizon, tuple(captions))
