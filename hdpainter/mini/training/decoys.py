"""What a failed fill looks like: patterns with an object's colours or texture, but without its shape.

A detector that has seen only whole objects takes colour and texture for the thing itself, such as a checker for a
sports ball. Trained with these as background, it judges what can be recognised.
"""

from collections.abc import Callable

import cv2
import numpy as np

SMALLEST = 8  # pixels a side: less has no pattern


def decoy(image: np.ndarray, window: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The picture [H, W, 3] with a pattern for what is in `window` [x0, y0, x1, y1]: an ellipse or a box."""
    x0, y0, x1, y1 = window
    patch = image[y0:y1, x0:x1]
    pattern = PATTERNS[rng.integers(len(PATTERNS))](patch, rng)
    out = image.copy()
    inside = np.ones(patch.shape[:2], np.uint8)
    if rng.random() < 0.6:
        inside[:] = 0
        width, height = float(x1 - x0), float(y1 - y0)
        cv2.ellipse(inside, ((width / 2, height / 2), (width, height), 0.0), 1, -1)
    out[y0:y1, x0:x1][inside > 0] = pattern[inside > 0]
    return out


def checks(patch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Fields, stripes or soft clouds of a few cells, of the patch's own colours or of garish ones."""
    rows, columns = rng.integers(1, 9, 2)
    cells = _colours(patch, max(rows * columns, 2), rng)[: rows * columns].reshape(rows, columns, 3)
    ways = (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC)
    return cv2.resize(cells, patch.shape[1::-1], interpolation=ways[rng.integers(len(ways))])


def shuffled(patch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The patch cut into 3x3 to 6x6 tiles that have changed their places, a little softened."""
    k = int(rng.integers(3, 7))
    side = max(max(patch.shape[:2]) // k, 2)
    square = cv2.resize(patch, (k * side, k * side), interpolation=cv2.INTER_AREA)
    tiles = square.reshape(k, side, k, side, 3).swapaxes(1, 2).reshape(k * k, side, side, 3)
    mixed = rng.permutation(tiles).reshape(k, k, side, side, 3).swapaxes(1, 2).reshape(square.shape)
    mixed = cv2.GaussianBlur(mixed, (0, 0), rng.uniform(0.3, 2.0))
    return cv2.resize(mixed, patch.shape[1::-1], interpolation=cv2.INTER_LINEAR)


def smear(patch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The patch blurred until only a blob of its colours is left."""
    small = cv2.resize(patch, (2, 2) if rng.random() < 0.5 else (3, 3), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, patch.shape[1::-1], interpolation=cv2.INTER_CUBIC)


PATTERNS: tuple[Callable[[np.ndarray, np.random.Generator], np.ndarray], ...] = (checks, shuffled, smear)


def _colours(patch: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` colours uint8 [count, 3]: those of random pixels of the patch, or any that are fully saturated."""
    if rng.random() < 0.6:
        return rng.choice(patch.reshape(-1, 3), count)
    return (rng.random((count, 3)).round() * 255).astype(np.uint8)
