"""Whether a picture can be a mask: black where it keeps, white where it fills, at most with soft edges between.

With a photo for a mask, or a picture whose greys mean something else, another part than was meant would be
painted in silence. Hard, antialiased, feathered and compressed masks pass: what tells them from pictures is that
their greys are edges, either narrow, or wide and smooth.
"""

import cv2
import numpy as np
from PIL import Image

from ldm.util import UserError

LARGE = 0.9  # share of a picture that is rarely meant to be filled

_SIDE = 512  # at which masks are looked at: edges of large ones are as wide as their pixels are many
_BLACK, _WHITE = 48, 207  # grey values up to the one and from the other count as such
_COLOURFUL = 64  # between the strongest and the weakest of a pixel's colours
_ROUGH = 8  # levels between a pixel and the mean of its neighbours; a smooth ramp has next to none
_NEIGHBOURS = np.ones((3, 3), np.uint8)
_FIX = "give one that is black and white, white where it is to be filled"


def check_mask(rgb: Image.Image, name: str) -> None:
    """Raise UserError, which begins with `name`, for a picture that does not look like a mask."""
    step = -(-max(rgb.size) // _SIDE)
    pixels = np.ascontiguousarray(np.asarray(rgb)[::step, ::step])
    colourful = np.mean(np.ptp(pixels, axis=2) > _COLOURFUL)
    if colourful > 0.02:
        raise UserError(f"{name} is a colour picture, not a mask (was it swapped with the image?): {_FIX}")

    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    between = ((grey > _BLACK) & (grey < _WHITE)).astype(np.uint8)
    within = cv2.erode(between, np.ones((5, 5), np.uint8), borderType=cv2.BORDER_REPLICATE) > 0
    rough = np.mean(within & (cv2.absdiff(grey, cv2.blur(grey, (3, 3))) > _ROUGH))
    # The edges of a small mask are a larger part of it.
    if within.mean() > 0.8 or rough > max(0.005, 2 / max(grey.shape)):
        raise UserError(
            f"{name} is a picture with many greys, not a mask (was it swapped with the image?): {_FIX}"
        )

    flat = within & (cv2.dilate(grey, _NEIGHBOURS) == cv2.erode(grey, _NEIGHBOURS))
    levels = np.flatnonzero(np.bincount(grey[flat], minlength=256) > 0.03 * grey.size)
    if len(levels) > 1:
        values = ", ".join(map(str, levels))
        raise UserError(
            f"{name} has several areas of grey (values {values}): which of them is to be filled? {_FIX}"
        )


def check_transparency(alpha: np.ndarray, grey: np.ndarray, name: str) -> None:
    """Raise UserError where a hole was erased into white: it means the opposite of white strokes on nothing.

    alpha, grey: uint8 [H, W], the opacity and the values beneath.
    """
    opaque = alpha > 127
    border = np.concatenate([opaque[0], opaque[-1], opaque[:, 0], opaque[:, -1]])
    if opaque.all() or not opaque.any() or max(opaque.mean(), border.mean()) <= 0.5:
        return
    if np.mean(grey[opaque] >= _WHITE) > 0.98:
        raise UserError(
            f"{name} is white with a transparent part: if that is to be filled, paint it white and the rest "
            "black, without transparency"
        )
