"""From the user's mask to every mask the method needs; sizes and padding of the two stages.

Conventions: a mask file is grey uint8 [H, W] with white = fill; after `binarize` a mask is bool [H, W] with
True = fill (the paper's M = 1); the networks get float tensors [B, 1, h, w] with 1 = fill. Sizes are
(height, width).
"""

from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hdpainter.values import Checked, Range
from ldm.util import UserError

Mask = NDArray[np.bool_]
"""[H, W], True = fill."""
Grey = NDArray[np.uint8]
"""[H, W], as mask files are."""

Shrink = Literal["nearest", "bicubic>0.5", "bicubic>0"]
Pad = Literal["edge", "zero", "reflect"]
Number = TypeVar("Number", bound=np.generic)
Soft = Literal["levels", "bicubic"]

# Where more than this share of the values below a limit counts as filled, they are what a mask has for black:
# values that are black to the eye, and any dark grey without black beside it. Soft edges have black beside them.
_DARK = ((4, 0.2), (128, 0.95))
_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
_NUMPY_PAD: dict[Pad, Literal["edge", "constant", "reflect"]] = {
    "edge": "edge",
    "zero": "constant",
    "reflect": "reflect",
}


@dataclass(frozen=True)
class MaskSettings(Checked):
    """How stage 1 reads and shrinks masks. The defaults are the paper's; the authors' release differs in all.

    threshold: a pixel is filled where its grey value is at least this (1: every value but black).
    dilate: pixels by which M grows, in steps of a 3x3 cross.
    levels: how M shrinks to the token grids of PAIntA and RASG ("M is downscaled with NN interpolation").
    rasg: RASG's M if it is another: `bicubic` is not thresholded, in [0, 1], as in the diffusers community port.
    concat: how M shrinks to the latent's size for the inpainting model's mask channel.
    pad: how image and mask grow to the model's multiple at the right and the bottom.
    """

    threshold: Annotated[int, Range(1, 255, "a grey value from 1 to 255")] = 128
    dilate: Annotated[int, Range(0, 1000, "a number of pixels from 0 to 1000")] = 0
    levels: Shrink = "nearest"
    rasg: Soft = "levels"
    concat: Shrink = "nearest"
    pad: Pad = "edge"


def stage_size(height: int, width: int, long_side: int) -> tuple[int, int]:
    """The size with the longer side at `long_side`, up or down; the other is cut to whole pixels, at least 1."""
    longer = max(height, width)
    return max(height * long_side // longer, 1), max(width * long_side // longer, 1)


def padded_size(height: int, width: int, multiple: int) -> tuple[int, int]:
    """The size rounded up to multiples of `multiple`."""
    return -(-height // multiple) * multiple, -(-width // multiple) * multiple


def pad_to_multiple(array: NDArray[Number], multiple: int, mode: Pad) -> NDArray[Number]:
    """Grow an image [H, W, C] or a mask [H, W] at the right and the bottom to multiples of `multiple`.

    "reflect" repeats as often as needed, so the padding may exceed the image.
    """
    height, width = array.shape[:2]
    full_height, full_width = padded_size(height, width, multiple)
    frame = [(0, full_height - height), (0, full_width - width)] + [(0, 0)] * (array.ndim - 2)
    return np.pad(array, frame, mode=_NUMPY_PAD[mode])


def binarize(mask: Grey, threshold: int = 128, name: str = "mask") -> Mask:
    """M as bool [H, W] from a grey uint8 mask.

    Raises UserError, with `name` for the user, where M is empty, and where what counts as filled is what the mask
    has instead of black.
    """
    filled = mask >= threshold
    if not filled.any():
        raise UserError(
            f"{name} marks nothing to fill: paint the part to fill white "
            f"(brightest value {mask.max()}, at least {threshold} of 255 counts)"
        )
    for limit, share in _DARK:
        dark = mask < limit
        meant = filled & dark
        nearly, black = int(np.count_nonzero(meant)), int(np.count_nonzero(dark))
        if nearly > max(mask.size // 20, black * share) and mask.max() > 127:
            raise UserError(
                f"{name} has values from {mask[meant].min()} to {mask[meant].max()} where it should be black, "
                f"and this method fills all from {threshold} up, {filled.mean():.0%} of the picture: save it "
                "with black as 0"
            )
    return filled


def dilate(mask: Mask, pixels: int) -> Mask:
    """M grown by `pixels` steps of a 3x3 cross, that is by a diamond of that radius."""
    return cv2.dilate(mask.astype(np.uint8), _CROSS, iterations=pixels).astype(bool)


def shrink(mask: Mask, size: tuple[int, int], how: Shrink) -> Mask:
    """M at another size, bool [h, w]. A mask that holds anything never becomes empty.

    "nearest" reads the pixel at floor(i H / h), as torch's interpolate does: shrinking in two steps is then the
    same as in one. The bicubic ways (antialiased, Pillow's) take cells filled by more than half, or at all.
    Where all of M falls between the samples, the cells that M touches are taken instead.
    """
    (height, width), (h, w) = mask.shape, size
    if how == "nearest":
        small = mask[np.arange(h)[:, None] * height // h, np.arange(w) * width // w]
    else:
        small = _bicubic(np.where(mask, np.uint8(255), np.uint8(0)), size) > (
            127 if how == "bicubic>0.5" else 0
        )
    return small if small.any() else touched(mask, size)


def soft_shrink(mask: Mask, size: tuple[int, int]) -> NDArray[np.float32]:
    """M at another size by the antialiased bicubic filter, float32 [h, w] in [0, 1]."""
    return _bicubic(np.where(mask, np.uint8(255), np.uint8(0)), size).astype(np.float32) / np.float32(255)


def touched(mask: Mask, size: tuple[int, int]) -> Mask:
    """The cells of another size in which M has at least one pixel, bool [h, w]."""
    cells = np.zeros(size, dtype=bool)
    rows, columns = np.nonzero(mask)
    cells[rows * size[0] // mask.shape[0], columns * size[1] // mask.shape[1]] = True
    return cells


def prepare(
    mask: Grey, size: tuple[int, int], multiple: int, settings: MaskSettings, name: str = "mask"
) -> Mask:
    """M of stage 1, bool: the user's grey mask resized to `size`, binarised, dilated and padded to `multiple`.

    Parts too thin to survive the resize keep the cells that they touch. Raises UserError where the user's mask
    marks nothing.
    """
    marked = touched(binarize(mask, settings.threshold, name), size)
    small = _bicubic(mask, size) >= settings.threshold
    lost = marked & ~_with_neighbours(small)
    small |= marked & _with_neighbours(lost)
    return pad_to_multiple(dilate(small, settings.dilate), multiple, settings.pad)


def soft_mask(
    mask: Mask, size: tuple[int, int], radius: int = 19, blur: int = 19, sigma: float = 3.2
) -> NDArray[np.float32]:
    """The authors' release's soft M for blending latents in stage 2, float32 [h, w] in [0, 1].

    M is dilated by a diamond of `radius` pixels, shrunk bicubically and blurred by a Gaussian of `blur` latent
    pixels (odd). The paper's Eq. 10 has the hard M: `shrink`.
    """
    grown = np.where(dilate(mask, radius), np.uint8(255), np.uint8(0))
    grey = _bicubic(grown, size).astype(np.float32) / np.float32(255)
    return np.clip(cv2.GaussianBlur(grey, (blur, blur), sigma, borderType=cv2.BORDER_REFLECT_101), 0, 1)


def bbox(mask: Mask, margin: int = 0, multiple: int = 1) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of M with a margin, within the image, the ends exclusive.

    Edges move outward to multiples of `multiple`, except where the image itself ends. Raises ValueError where M
    is empty.
    """
    if not mask.any():
        raise ValueError("an empty mask has no bounding box")
    top, bottom = _span(mask, 0, margin, multiple)
    left, right = _span(mask, 1, margin, multiple)
    return top, bottom, left, right


def _span(mask: Mask, axis: int, margin: int, multiple: int) -> tuple[int, int]:
    places = np.flatnonzero(mask.any(axis=1 - axis))
    first = max(places[0] - margin, 0) // multiple * multiple
    last = -(-(places[-1] + 1 + margin) // multiple) * multiple
    return int(first), int(min(last, mask.shape[axis]))


def _with_neighbours(mask: Mask) -> Mask:
    return cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)


def _bicubic(grey: Grey, size: tuple[int, int]) -> Grey:
    """Grey uint8 [H, W] resized by Pillow's bicubic filter, which antialiases when shrinking."""
    return np.asarray(Image.fromarray(grey).resize(size[::-1], Image.Resampling.BICUBIC))
