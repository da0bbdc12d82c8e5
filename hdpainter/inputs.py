"""From what the user hands over to the picture and the mask that are painted."""

from dataclasses import dataclass
from typing import Annotated, Literal

import cv2
import numpy as np
from PIL import Image

from hdpainter.images import MAX_PIXELS, Source, load_image, load_mask
from hdpainter.masks import Grey, Mask
from hdpainter.values import Checked, Matching, Range
from hdpainter.windows import for_holes, holes
from ldm.util import UserError

PADDING = 32  # of --only-masked where it gives none

MaskChannel = Literal["grey", "alpha"]
Grow = Annotated[int, Range(0, 4096, "a number of pixels from 0 to 4096")]
Padding = Annotated[int, Range(8, 2**15, "a number of pixels from 8 to 32768")]
_SIDE = r"(?:left|right|top|bottom)=\d{1,5}"
_ONCE = r"(?!.*\b([a-z]+)=.*\b\1=)"  # no side twice
Outpaint = Annotated[
    str,
    Matching(
        rf"{_ONCE}{_SIDE}(,{_SIDE})*", "sides and pixels, such as left=200,right=200 (also top, bottom)"
    ),
]


@dataclass(frozen=True)
class InputSettings(Checked):
    """How the picture and the mask are read, and how much of them stage 1 sees. The methods do not differ in it.

    mask_channel: what is filled is white (`grey`) or, as where a hole was erased into a picture, transparent
        (`alpha`).
    invert_mask: what is not marked is filled.
    resize_mask: a mask of another size is brought to the picture's.
    grow: pixels by which the mask grows on all sides.
    outpaint: the picture grows by these pixels, which are filled too: ``left=200,top=64``.
    only_masked: stage 1 sees the mask's surroundings only, this many pixels around it, at the model's own size;
        None: the whole picture.
    each_hole: parts of the mask that are far apart are filled one after the other, from left to right.
    """

    mask_channel: MaskChannel = "grey"
    invert_mask: bool = False
    resize_mask: bool = False
    grow: Grow = 0
    outpaint: Outpaint | None = None
    only_masked: Padding | None = None
    each_hole: bool = False

    @property
    def margins(self) -> dict[str, int]:
        """The pixels that `outpaint` adds on each side."""
        sides = dict.fromkeys(("left", "right", "top", "bottom"), 0)
        given = (side.partition("=") for side in (self.outpaint or "").split(",") if side)
        return sides | {side: int(pixels) for side, _, pixels in given}

    def grown(self, size: tuple[int, int]) -> tuple[int, int]:
        """The (width, height) that a picture of this one gets. Raises UserError where that is too large."""
        add = self.margins
        width, height = size[0] + add["left"] + add["right"], size[1] + add["top"] + add["bottom"]
        if width * height > MAX_PIXELS and size != (width, height):
            raise UserError(f"outpaint {self.outpaint} makes {width} x {height} pixels: add fewer")
        return width, height


def read(
    image: Source, mask: Source | None, settings: InputSettings, threshold: int = 128
) -> tuple[Image.Image, Grey]:
    """The picture, RGB, and the mask of its size, grey uint8 [H, W] with white = fill, by all the settings.

    threshold: the grey value from which a pixel counts as filled. mask: None where nothing but the outpainted
    margins is filled. Raises UserError for what `load_image` and `load_mask` refuse.
    """
    picture = load_image(image)
    if mask is not None:
        grey = load_mask(
            mask,
            picture.size,
            channel=settings.mask_channel,
            invert=settings.invert_mask,
            resize=settings.resize_mask,
            threshold=threshold,
        )
    elif settings.outpaint:
        grey = np.zeros(picture.size[::-1], np.uint8)
    else:
        raise UserError("there is no mask: give one, or sides to outpaint")
    grey = _grow(grey, settings.grow, threshold)
    return _outpaint(picture, grey, settings) if settings.outpaint else (picture, grey)


def _grow(grey: Grey, pixels: int, threshold: int) -> Grey:
    """White within that distance of what is filled."""
    if pixels == 0:
        return grey
    known = np.where(grey >= threshold, np.uint8(0), np.uint8(1))
    near = cv2.distanceTransform(known, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= pixels
    return np.where(near & (known.min() == 0), np.uint8(255), grey)


def _outpaint(picture: Image.Image, grey: Grey, settings: InputSettings) -> tuple[Image.Image, Grey]:
    """The larger canvas, with the picture's border continued, and the mask with the margins white."""
    settings.grown(picture.size)
    add = settings.margins
    margins = [(add["top"], add["bottom"]), (add["left"], add["right"])]
    canvas = Image.fromarray(np.pad(np.asarray(picture), [*margins, (0, 0)], mode="edge"))
    canvas.info = picture.info
    return canvas, np.pad(grey, margins, constant_values=255)


def prompts_of(mask: Mask, prompt: str, settings: InputSettings) -> list[str]:
    """The prompt of each hole of M, one where all are filled at once. Raises UserError for a wrong number."""
    return for_holes(prompt, holes(mask)[1]) if settings.each_hole else [prompt]


def described(mask: Mask) -> str:
    """What M fills, in words: "fills 11% of the picture, 2 parts"."""
    return told(float(mask.mean()), parts_of(mask))


def parts_of(mask: Mask) -> int:
    """How many parts of M do not touch."""
    return cv2.connectedComponents(mask.astype(np.uint8))[0] - 1


def told(share: float, parts: int) -> str:
    """The words of `described`, by the share of the picture and the number of parts."""
    percent = f"{share:.0%}" if share >= 0.01 else f"{share:.2%}"
    return f"fills {percent} of the picture{f', {parts} parts' if parts > 1 else ''}"
