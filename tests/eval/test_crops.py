"""The boxes and crops of the metrics, against the release's."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from eval.metrics.clip import resize
from eval.metrics.crops import crop, pad_square
from hdpainter.masks import bbox, shrink, stage_size
from tests.support import GOLDEN

FOLDER = GOLDEN / "coco"
ITEMS = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))["items"]


def picture(name):
    return np.array(Image.open(FOLDER / name))


def box(mask):
    """(x0, y0, x1, y1), as the release has it."""
    top, bottom, left, right = bbox(mask)
    return left, top, right, bottom


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item["image_name"])
def test_boxes_at_full_and_at_evaluation_size_are_the_release_s(item):
    mask = picture(item["mask_png"]) > 0
    assert box(mask) == tuple(item["bbox_xyxy"])
    size = stage_size(*mask.shape, 512)
    assert size[::-1] == tuple(item["resized512_wh"])
    assert box(shrink(mask, size, "bicubic>0")) == tuple(item["resized512_bbox_xyxy"])


def test_the_crop_is_the_release_s():
    case = json.loads((FOLDER / "crop.json").read_text())
    image, mask = picture("crop_image.png"), picture(f"masks/{case['item']}.png") > 0
    assert box(mask) == tuple(case["bbox_xyxy"])
    assert crop(image, mask).shape[1::-1] == tuple(case["crop_wh"])
    assert np.array_equal(pad_square(crop(image, mask)), picture("crop_padded.png"))
    # OpenCV rounds one value in 150,000 differently on some processors.
    difference = np.abs(
        resize(picture("crop_padded.png"), 224, "cubic").astype(int) - picture("crop_224.png")
    )
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-4


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(1, 30))
def test_padding_keeps_every_pixel_and_centres(height, width):
    image = np.random.default_rng(height * 31 + width).integers(1, 256, (height, width, 3), np.uint8)
    square = pad_square(image)
    side = max(height, width)
    assert square.shape == (side, side, 3)
    assert (square > 0).all(axis=2).sum() == height * width
    assert np.array_equal(crop(square, square.any(axis=2)), image)
    x0, y0, x1, y1 = box(square.any(axis=2))
    assert 0 <= (side - x1) - x0 <= 1 and 0 <= (side - y1) - y0 <= 1
