"""What the metrics look at: the mask's bounding box, cut out of the picture and padded to a square."""

import numpy as np


def box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """(x0, y0, x1, y1) of what is not zero in mask [H, W], the ends exclusive. ValueError where nothing is."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if len(columns) == 0:
        raise ValueError("an empty mask has no bounding box")
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def crop(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The part of an image [H, W, 3] within the mask's bounding box."""
    x0, y0, x1, y1 = box(mask)
    return image[y0:y1, x0:x1]


def pad_square(image: np.ndarray) -> np.ndarray:
    """An image [h, w, 3] centred on a black square; of an odd number of pixels, one more follows."""
    height, width = image.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    return np.pad(image, [(top, side - height - top), (left, side - width - left), (0, 0)])
