"""From what is painted in the browser to the mask of the photo's size, and how the model will see it.

The browser sends a picture of the mask alone, of the photo's size up to a limit. Only its alpha is read: the
photo's pixels never come back from there.
"""

import base64
import binascii
import io

import numpy as np
from PIL import Image

from hdpainter.masks import (
    MaskSettings,
    binarize,
    dilate,
    pad_to_multiple,
    prepare,
    shrink,
    stage_size,
    touched,
)
from hdpainter.models.registry import PipelineSpec
from ldm.util import UserError

PNG_URL = "data:image/png;base64,"
# Of the baselines: cells a side that are painted or not, and the sizes of their squares.
_SQUARES = {"glide": (64, "64 × 64 and 256 × 256"), "nuwa-lip": (32, "256 × 256")}
TINT = np.array([255, 64, 129])  # latent cells to be filled, in the picture of what the model sees


def painted(data_url: str, size: tuple[int, int]) -> np.ndarray:
    """The painted mask as bool [h, w]: where the alpha of the PNG, of (width, height) `size`, is at least half.

    Raises UserError for anything else than such a PNG.
    """
    wrong = UserError("the painted mask did not arrive whole: reload the page")
    if not data_url.startswith(PNG_URL):
        raise wrong
    try:
        png = base64.b64decode(data_url.removeprefix(PNG_URL), validate=True)
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            if image.size != size or image.mode != "RGBA":
                raise wrong
            return np.asarray(image.getchannel("A")) >= 128
    except (binascii.Error, OSError, ValueError, SyntaxError):  # the last is Pillow's word for a broken PNG
        raise wrong from None


def full_size(paint: np.ndarray, size: tuple[int, int], loaded: np.ndarray | None = None) -> np.ndarray:
    """The grey mask [H, W] of the photo's (width, height), white = fill: the painted one by nearest neighbour.

    loaded: a mask file's grey values [H, W]; it counts, at full precision, where the editor showed it and still
    does, and at the soft edges there.
    """
    width, height = size
    rows = np.arange(height) * paint.shape[0] // height
    columns = np.arange(width) * paint.shape[1] // width
    grey = np.where(paint, np.uint8(255), np.uint8(0))[rows[:, None], columns]
    if loaded is None:
        return grey
    shown = small_size(loaded, paint.shape)
    kept = (paint == shown) & dilate(shown & paint, 2)
    return np.where(kept[rows[:, None], columns], loaded, grey)


def small_size(loaded: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A mask file's grey values as the browser shows them, bool [h, w]: each cell that has a white pixel, so that
    nothing is filled that cannot be seen."""
    filled = loaded >= 128
    for axis, (side, small) in enumerate(zip(loaded.shape, shape, strict=True)):
        starts = -(-np.arange(small) * side // small)
        filled = np.logical_or.reduceat(filled, starts, axis)
    return filled


def for_canvas(mask: np.ndarray) -> Image.Image:
    """A bool mask [h, w] as the editor holds it: white, opaque where it is to be filled."""
    white = np.full((*mask.shape, 4), 255, np.uint8)
    white[..., 3] = np.where(mask, 255, 0)
    return Image.fromarray(white)


def as_seen(
    picture: Image.Image, grey: np.ndarray, spec: PipelineSpec, settings: MaskSettings, long_side: int | None
) -> tuple[Image.Image, str]:
    """What stage 1 is given, and a line about it: the picture at its size, padded, the part to fill grey, the
    latent cells that it paints tinted.

    picture: the photo or a copy that is large enough. grey: the mask [H, W].
    Raises UserError where the mask is empty.
    """
    if spec.kind != "ldm":
        return _square_seen(picture, grey, settings, *_SQUARES[spec.kind])
    from hdpainter.inpaint import FACTOR  # brings the networks, which take longer to import than the page

    height, width = stage_size(grey.shape[0], grey.shape[1], long_side or spec.size)
    small = np.array(picture.resize((width, height), Image.Resampling.BICUBIC))
    image = pad_to_multiple(small, spec.multiple, settings.pad)
    mask = prepare(grey, (height, width), spec.multiple, settings)
    rows, columns = (side // FACTOR for side in mask.shape)
    cells = shrink(mask, (rows, columns), settings.concat).repeat(FACTOR, 0).repeat(FACTOR, 1)
    seen = np.where(mask[..., None], np.uint8(128), image)
    seen[cells] = (0.6 * seen[cells] + 0.4 * TINT).astype(np.uint8)
    padding = "" if seen.shape[:2] == (height, width) else f", padded to {seen.shape[1]} × {seen.shape[0]}"
    filled = _filled(grey >= settings.threshold)
    return Image.fromarray(seen), f"{width} × {height} pixels{padding}; {filled}"


def _square_seen(
    picture: Image.Image, grey: np.ndarray, settings: MaskSettings, cells: int, sizes: str
) -> tuple[Image.Image, str]:
    """The same of a baseline, which gets squares and paints the cells of a grid that the mask touches."""
    side = 256
    mask = binarize(grey, settings.threshold)
    hidden = touched(mask, (cells, cells)).repeat(side // cells, 0).repeat(side // cells, 1)
    seen = np.array(picture.resize((side, side), Image.Resampling.BICUBIC))
    seen[hidden] = 128
    return Image.fromarray(seen), f"squeezed to {sizes} pixels; {_filled(mask)}"


def _filled(mask: np.ndarray) -> str:
    share = 100 * float(mask.mean())
    return f"{f'{share:.0f} %' if share >= 1 else 'under 1 %'} of the photo is filled"
