"""Where stage 1 looks: at the whole picture, or at a window around what is to be filled, hole by hole."""

import cv2
import numpy as np
from numpy.typing import NDArray

from hdpainter.masks import Mask, bbox
from ldm.util import UserError

Window = tuple[slice, slice]
"""Rows and columns."""

MOST_HOLES = 100  # to be filled one after the other; more are specks
_APART = 32  # parts of M closer than this part of the picture's longer side are one hole, 16 pixels at 512


def window(mask: Mask, padding: int | None) -> Window:
    """The part of the picture that stage 1 is to see for M, bool [H, W] and not empty.

    M's bounding box with `padding` pixels around it, and its shorter side then widened to the longer one: as
    square as the picture allows, since the models were trained on squares. It never leaves the picture, and moves
    inwards where it would. padding None: the whole picture.
    """
    height, width = mask.shape
    if padding is None:
        return slice(0, height), slice(0, width)
    top, bottom, left, right = bbox(mask, padding)
    side = max(bottom - top, right - left)
    return _widened(top, bottom, side, height), _widened(left, right, side, width)


def _widened(start: int, stop: int, side: int, length: int) -> slice:
    """The span widened on both sides to `side`, or to all of `length`."""
    side = min(side, length)
    start = min(max(start - (side - (stop - start)) // 2, 0), length - side)
    return slice(start, start + side)


def holes(mask: Mask) -> tuple[NDArray[np.int32], int]:
    """(the hole [H, W] that each pixel of the picture is nearest to, from 0; how many there are).

    Holes are the parts of M that lie further apart than 1/32 of the picture's longer side, numbered from left to
    right by where they begin; pixels far from all of them have -1. Raises UserError for more than 100 of them.
    """
    reach = max(max(mask.shape) // (2 * _APART), 1)
    wide = cv2.dilate(mask.astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    count, labels, boxes, _ = cv2.connectedComponentsWithStats(wide, connectivity=8)
    if count - 1 > MOST_HOLES:
        raise UserError(
            f"the mask has {count - 1} separate parts, too many to fill one after the other (at most {MOST_HOLES}"
            "): take the specks away, or fill them all at once, without each_hole"
        )
    order = sorted(range(1, count), key=lambda label: (boxes[label][0], boxes[label][1]))
    number = np.full(count, -1, np.int32)
    number[order] = np.arange(count - 1, dtype=np.int32)
    return number[labels], count - 1


def for_holes(prompt: str, count: int) -> list[str]:
    """The prompt of each hole: those separated by ``|``, or a single one for all. Raises UserError for others."""
    prompts = [text.strip() for text in prompt.split("|")]
    if len(prompts) == 1:
        return prompts * count
    if len(prompts) != count:
        raise UserError(
            f"{len(prompts)} prompts, separated by |, for {count} hole{'s' * (count != 1)}: give one for each, "
            "from left to right, or one for all"
        )
    return prompts
