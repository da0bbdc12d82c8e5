"""What the networks among the metrics look at: the mask's bounding box, cut out and padded to a square."""

import numpy as np

from hdpainter.masks import bbox


def crop(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The part of an image [H, W, 3] within the mask's bounding box."""
    top, bottom, left, right = bbox(mask)
    return image[top:bottom, left:right]


def pad_square(image: np.ndarray) -> np.ndarray:
    """An image [h, w, 3] centred on a black square; of an odd number of pixels, one more follows."""
    height, width = image.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    return np.pad(image, [(top, side - height - top), (left, side - width - left), (0, 0)])
