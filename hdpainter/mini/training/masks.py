"""Random inpainting masks: strokes and boxes, as Stable Inpainting was trained with; holes around an object."""

import math

import cv2
import numpy as np


def _stroke(rng: np.random.Generator, mask: np.ndarray) -> None:
    """A thick polyline that wanders over the picture."""
    size = len(mask)
    x, y = rng.uniform(0, size, 2)
    angle, width = rng.uniform(0, 2 * math.pi), max(int(size * rng.uniform(0.06, 0.34)), 1)
    for _ in range(int(rng.integers(1, 7))):
        angle += rng.uniform(-1.3, 1.3)
        length = size * rng.uniform(0.05, 0.35)
        u = float(np.clip(x + length * math.cos(angle), 0, size))
        v = float(np.clip(y + length * math.sin(angle), 0, size))
        cv2.line(mask, (int(x), int(y)), (int(u), int(v)), 1, width)
        cv2.circle(mask, (int(u), int(v)), width // 2, 1, -1)
        x, y = u, v


def _box(rng: np.random.Generator, mask: np.ndarray) -> None:
    """An axis-aligned box, perhaps cut by the border; in one case of three an ellipse instead."""
    size = len(mask)
    w, h = size * rng.uniform(0.15, 0.85, 2)
    x, y = size * rng.uniform(-0.1, 0.9, 2)
    if rng.random() < 1 / 3:
        centre = (int(x + w / 2), int(y + h / 2))
        cv2.ellipse(mask, centre, (int(w / 2), int(h / 2)), rng.uniform(0, 180), 0, 360, 1, -1)
    else:
        cv2.rectangle(mask, (int(x), int(y)), (int(x + w), int(y + h)), 1, -1)


def random_mask(rng: np.random.Generator, size: int, full: float = 0.15) -> np.ndarray:
    """A mask bool [size, size], True where the picture is to be filled in.

    With probability `full` it is everything, which is text-to-image; otherwise strokes (40%), boxes (40%) or
    both. No mask is empty.
    """
    mask = np.zeros((size, size), np.uint8)
    if rng.random() < full:
        return ~mask.astype(bool)
    while not mask.any():  # a box or an ellipse may lie beside the picture
        kind = rng.random()
        if kind < 0.6:
            for _ in range(int(rng.integers(1, 6))):
                _stroke(rng, mask)
        if kind >= 0.4:
            for _ in range(int(rng.integers(1, 3 if kind < 0.6 else 4))):
                _box(rng, mask)
    return mask.astype(bool)


def hull(mask: np.ndarray) -> np.ndarray:
    """The filled convex hull of a boolean mask [H, W]."""
    points = np.argwhere(mask)[:, ::-1].astype(np.int32)
    filled = np.zeros(mask.shape, np.uint8)
    cv2.fillConvexPoly(filled, cv2.convexHull(points), 1)
    return filled.astype(bool)


def bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    """The box (x0, y0, x1, y1) of a boolean mask [H, W] that has a pixel; x1 and y1 are beyond it."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def object_mask(rng: np.random.Generator, seen: np.ndarray) -> np.ndarray:
    """A hole bool [H, W] that covers an object, of which the pixels `seen` [H, W], at least one, are visible.

    It is the convex hull of these, their bounding box or an ellipse around that, grown by up to 8% of the
    picture.
    """
    size = len(seen)
    growth = size * 0.08 * rng.uniform(0, 1, 2)
    kind = rng.integers(3)
    if kind == 0:
        width = 2 * int(growth[0]) + 1
        return cv2.dilate(hull(seen).astype(np.uint8), np.ones((width, width), np.uint8)).astype(bool)
    x0, y0, x1, y1 = bounds(seen)
    low, high = np.array([x0, y0]) - growth, np.array([x1, y1]) - 1 + growth
    mask = np.zeros(seen.shape, np.uint8)
    if kind == 1:
        cv2.rectangle(mask, tuple(low.astype(int).tolist()), tuple(high.astype(int).tolist()), 1, -1)
    else:
        centre, axes = (low + high) / 2, (high - low) / 2 * 2**0.5  # through the box's corners
        cv2.ellipse(mask, (tuple(centre.tolist()), tuple((2 * axes + 1).tolist()), 0), 1, -1)
    return mask.astype(bool) | seen
