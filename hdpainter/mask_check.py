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
_NOISE = 16  # levels; what has fewer has no texture, only the noise of a lossy file, or labels
_SPECKLED = 0.1  # share of pixels without a like neighbour; of dithered photos nearly a fifth and more
_NEIGHBOURS = np.ones((3, 3), np.uint8)
_AROUND = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], np.uint8)
_FIX = "give one that is black and white, white where it is to be filled"
_ALPHA = "if its transparent part is to be filled, give mask_channel alpha"


def check_mask(rgb: Image.Image, name: str, transparent: bool = False) -> None:
    """Raise UserError, which begins with `name`, for a picture that does not look like a mask.

    transparent: it has transparent parts, which may be what is meant.
    """
    fix = f"{_ALPHA}; else {_FIX}" if transparent else _FIX
    step = -(-max(rgb.size) // _SIDE)
    pixels = np.ascontiguousarray(np.asarray(rgb)[::step, ::step])
    colourful = np.mean(np.ptp(pixels, axis=2) > _COLOURFUL)
    if colourful > 0.02:
        raise UserError(f"{name} is a colour picture, not a mask (was it swapped with the image?): {fix}")
    if _lonely(np.asarray(rgb.convert("L")) > 127) > max(_SPECKLED, 2 / max(rgb.size)):
        raise UserError(f"{name} is a picture of scattered dots, not a mask (was it dithered?): {fix}")

    values = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    grey = _stretched(values)
    between = ((grey > _BLACK) & (grey < _WHITE)).astype(np.uint8)
    within = cv2.erode(between, np.ones((5, 5), np.uint8), borderType=cv2.BORDER_REPLICATE) > 0
    rough = np.mean(within & (cv2.absdiff(grey, cv2.blur(grey, (3, 3))) > _ROUGH))
    # The edges of a small mask are a larger part of it.
    noise = grey is not values and int(values.max()) - int(values.min()) < _NOISE
    if not noise and (within.mean() > 0.8 or rough > max(0.005, 2 / max(grey.shape))):
        raise UserError(
            f"{name} is a picture with many greys, not a mask (was it swapped with the image?): {fix}"
        )

    flat = within & (cv2.dilate(grey, _NEIGHBOURS) == cv2.erode(grey, _NEIGHBOURS))
    levels = np.flatnonzero(np.bincount(values[flat], minlength=256) > 0.03 * grey.size)
    if len(levels) > 1:
        listed = ", ".join(map(str, levels))
        raise UserError(
            f"{name} has several areas of grey (values {listed}): which of them is to be filled? {fix}"
        )


def _lonely(white: np.ndarray) -> float:
    """The share of pixels that are white among black ones, or black among white ones; thin lines are neither."""
    among = cv2.filter2D(white.astype(np.uint8), -1, _AROUND, borderType=cv2.BORDER_REPLICATE)
    return float(np.mean(among == np.where(white, 0, 4)))


def _stretched(grey: np.ndarray) -> np.ndarray:
    """Grey values over the whole range where all are dark or all are bright: a dark photo is a photo, and labels
    from 0 to 1 are black and white."""
    low, high = int(grey.min()), int(grey.max())
    if low == high or (high > 127 and low < 128):
        return grey
    return ((grey.astype(np.float32) - low) * (255 / (high - low))).round().astype(np.uint8)


def check_transparency(alpha: np.ndarray, grey: np.ndarray, name: str) -> None:
    """Raise UserError where a hole was erased into white: it means the opposite of white strokes on nothing. And
    where all that is opaque is black, of which nothing would be filled.

    alpha, grey: uint8 [H, W], the opacity and the values beneath.
    """
    opaque = alpha > 127
    if opaque.any() and not opaque.all() and grey[opaque].max() == 0:
        raise UserError(
            f"{name} is black with a transparent part, and white is filled: {_ALPHA}; else {_FIX}"
        )
    border = np.concatenate([opaque[0], opaque[-1], opaque[:, 0], opaque[:, -1]])
    if opaque.all() or not opaque.any() or max(opaque.mean(), border.mean()) <= 0.5:
        return
    if np.mean(grey[opaque] >= _WHITE) > 0.98:
        raise UserError(
            f"{name} is white with a transparent part: if that is to be filled, give mask_channel alpha, or "
            "paint it white and the rest black, without transparency"
        )
