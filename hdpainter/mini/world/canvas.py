"""Vector drawings in unit coordinates and how to rasterise them at any size.

A drawing is a list of coloured polygons, so the same description renders at 256 and at 1024 pixels alike,
up to resolution. x grows to the right and y downwards; the picture is the square [0, 1] x [0, 1].
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypedDict, Unpack

import cv2
import numpy as np
from numpy.typing import ArrayLike

Colour = tuple[int, int, int]
SUBPIXEL_BITS = 4  # OpenCV's fixed-point polygon coordinates


@dataclass(frozen=True)
class Shape:
    """A filled polygon: `points` [n, 2], an RGB `colour` (0..255), `opacity` 0..1; `solid` ones make the
    silhouette of their object, the others (shadows, inner decoration) do not."""

    points: np.ndarray
    colour: Colour
    opacity: float = 1.0
    solid: bool = True


@dataclass(frozen=True)
class Band:
    """A full-width vertical gradient from `top` at y0 to `bottom` at y1."""

    y0: float
    y1: float
    top: Colour
    bottom: Colour


def rgb(colour: Iterable[float]) -> Colour:
    """Round and clip three numbers to an RGB colour."""
    r, g, b = (min(max(round(float(c)), 0), 255) for c in colour)
    return r, g, b


def shade(colour: Sequence[float], factor: float) -> Colour:
    """Darken (factor < 1: multiply) or lighten (factor in 1..2: mix with white) a colour."""
    if factor <= 1:
        return rgb(c * factor for c in colour)
    return rgb(c + (255 - c) * (factor - 1) for c in colour)


def jitter(rng: np.random.Generator, colour: Sequence[float], amount: float = 14) -> Colour:
    """A colour at most `amount` levels per channel away from the given one."""
    return rgb(np.asarray(colour, float) + rng.uniform(-amount, amount, 3))


class Style(TypedDict, total=False):
    """How a shape is drawn; see `Shape`."""

    solid: bool
    opacity: float


class Pen:
    """Collects shapes in an object's own coordinates, about -1..1 on both axes."""

    def __init__(self) -> None:
        self.shapes: list[Shape] = []

    def polygon(self, points: ArrayLike, colour: Colour, *, solid: bool = True, opacity: float = 1.0) -> None:
        """A filled polygon through `points` [n, 2]."""
        self.shapes.append(Shape(np.asarray(points, float), colour, opacity, solid))

    def ellipse(
        self,
        x: float,
        y: float,
        rx: float,
        ry: float,
        colour: Colour,
        start: float = 0.0,
        stop: float = 360.0,
        angle: float = 0.0,
        **style: Unpack[Style],
    ) -> None:
        """An ellipse, or between two angles in degrees a sector of it; `angle` turns it, in radians."""
        sweep = abs(stop - start)
        t = np.radians(np.linspace(start, stop, max(12, int(sweep / 5))))
        u, v = rx * np.cos(t), ry * np.sin(t)
        c, s = math.cos(angle), math.sin(angle)
        points = np.stack([x + c * u - s * v, y + s * u + c * v], 1)
        if sweep < 360 and sweep != 180:
            points = np.vstack([points, [x, y]])
        self.polygon(points, colour, **style)

    def box(
        self,
        x0: float,
        y0: float,
        x1: float,
        y1: float,
        colour: Colour,
        radius: float = 0.0,
        **style: Unpack[Style],
    ) -> None:
        """An upright rectangle with round corners."""
        if radius <= 0:
            self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], colour, **style)
            return
        corners = ((x1 - radius, y0 + radius, -90), (x1 - radius, y1 - radius, 0),
                   (x0 + radius, y1 - radius, 90), (x0 + radius, y0 + radius, 180))  # fmt: skip
        points = [
            (x + radius * math.cos(a), y + radius * math.sin(a))
            for x, y, first in corners
            for a in np.radians(np.linspace(first, first + 90, 6))
        ]
        self.polygon(points, colour, **style)

    def stroke(self, points: ArrayLike, width: float, colour: Colour, **style: Unpack[Style]) -> None:
        """A polyline of the given width with mitred joints."""
        p = np.asarray(points, float)
        tangent = np.diff(p, axis=0)
        tangent /= np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-9
        normal = np.stack([-tangent[:, 1], tangent[:, 0]], 1)
        joint = np.vstack([normal[:1], normal[:-1] + normal[1:], normal[-1:]])
        joint /= np.maximum(np.sum(joint * np.vstack([normal[:1], normal]), 1, keepdims=True), 0.35)
        offset = joint * width / 2
        self.polygon(np.vstack([p + offset, (p - offset)[::-1]]), colour, **style)

    def placed(
        self, x: float, y: float, radius: float, angle: float = 0.0, aspect: float = 1.0, flip: bool = False
    ) -> tuple[Shape, ...]:
        """The shapes at (x, y) of the picture: scaled by `radius` (heights by `aspect` too), flipped, turned.

        Coordinates are rounded to 1e-6, far below a pixel, so that the last bits of a machine's sine do not
        decide how a pixel is drawn.
        """
        c, s = math.cos(angle), math.sin(angle)
        across = -radius if flip else radius
        matrix = np.array([[c * across, s * across], [-s * radius * aspect, c * radius * aspect]])
        if not self.shapes:
            return ()
        lengths = [len(shape.points) for shape in self.shapes]
        points = np.concatenate([shape.points for shape in self.shapes])
        moved = np.round(points @ matrix + (x, y), 6)
        parts = np.split(moved, np.cumsum(lengths)[:-1])
        return tuple(
            Shape(part, shape.colour, shape.opacity, shape.solid)
            for part, shape in zip(parts, self.shapes, strict=True)
        )


def _supersampling(size: int) -> int:
    """How many times finer to draw. OpenCV also fills the pixels that an outline merely touches, which fattens
    shapes by half a pixel of the fine picture; small pictures need finer ones to look like large ones reduced."""
    return min(max(768 // size, 2), 4)


def _fixed_point(points: np.ndarray, size: int) -> np.ndarray:
    # -0.5: OpenCV's integer coordinates are pixel centres, ours are distances from the picture's edge
    return np.round((points * size - 0.5) * (1 << SUBPIXEL_BITS)).astype(np.int32)


def _fill(canvas: np.ndarray, shape: Shape, size: int) -> None:
    points = _fixed_point(shape.points, size)
    if shape.opacity >= 1:
        cv2.fillPoly(canvas, [points], shape.colour, cv2.LINE_8, SUBPIXEL_BITS)
        return
    low = np.clip(points.min(0) >> SUBPIXEL_BITS, 0, size - 1)
    high = np.clip((points.max(0) >> SUBPIXEL_BITS) + 2, low + 1, size)
    window = canvas[low[1] : high[1], low[0] : high[0]]
    layer = window.copy()
    cv2.fillPoly(layer, [points - (low << SUBPIXEL_BITS)], shape.colour, cv2.LINE_8, SUBPIXEL_BITS)
    cv2.addWeighted(layer, shape.opacity, window, 1 - shape.opacity, 0, dst=layer)
    window[:] = layer


def _fill_band(canvas: np.ndarray, band: Band, size: int) -> None:
    first, last = (min(max(round(y * size), 0), size) for y in (band.y0, band.y1))
    t = ((np.arange(first, last) + 0.5) / size - band.y0) / max(band.y1 - band.y0, 1e-6)
    colours = np.outer(1 - t, band.top) + np.outer(t, band.bottom)
    canvas[first:last] = np.round(colours).astype(np.uint8)[:, None, :]


def rasterise(drawing: Iterable[Shape | Band], size: int) -> np.ndarray:
    """Draw shapes in order on a black square. Returns RGB uint8 [size, size, 3], anti-aliased."""
    fine = size * _supersampling(size)
    canvas = np.zeros((fine, fine, 3), np.uint8)
    for item in drawing:
        if isinstance(item, Band):
            _fill_band(canvas, item, fine)
        else:
            _fill(canvas, item, fine)
    return cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)


def silhouette(shapes: Iterable[Shape], size: int) -> np.ndarray:
    """The solid shapes' union as bool [size, size]: pixels of which at least half are covered."""
    fine = size * _supersampling(size)
    canvas = np.zeros((fine, fine), np.uint8)
    solid = [_fixed_point(shape.points, fine) for shape in shapes if shape.solid]
    for points in solid:
        cv2.fillPoly(canvas, [points], 255, cv2.LINE_8, SUBPIXEL_BITS)
    return cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA) >= 128
