"""Scenes of toy COCO to try a pipeline on, and how its results are shown beside them."""

import itertools
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from PIL import Image

from hdpainter.masks import bbox
from hdpainter.mini.holes import FreeHole, free_hole
from hdpainter.mini.world.objects import CATEGORIES
from hdpainter.mini.world.toycoco import describe_scene


def examples(size: int) -> Iterator[FreeHole]:
    """Scenes 0, 1, 2, ... of the held-out split at `size` pixels, each with a hole that a person might paint.

    What is to be added is drawn with the scene's number as seed, of the categories for which the scene has a
    place where such a thing makes sense (`free_hole`); scenes that have none are left out.
    """
    for index in itertools.count():
        scene = describe_scene("val", index)
        order = np.random.default_rng(index).permutation(len(CATEGORIES))
        holes = (free_hole(scene, index, CATEGORIES[number], size) for number in order)
        if hole := next(filter(None, holes), None):
            yield hole


def example(number: int, size: int) -> tuple[np.ndarray, np.ndarray, str]:
    """Picture [size, size, 3], mask [size, size] (255 = fill) and prompt of number 0, 1, ... of `examples`."""
    hole = next(itertools.islice(examples(size), number, None))
    return hole.scene.render(size), hole.mask * np.uint8(255), hole.prompt


def outlined(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The picture with the mask's outline in white on black."""
    out = picture.copy()
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    for colour, width in ((0, 11), (255, 5)):
        cv2.drawContours(out, contours, -1, (colour,) * 3, width, cv2.LINE_AA)
    return out


def detail(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A square crop around the mask, at full resolution."""
    top, bottom, left, right = bbox(mask > 0, margin=16)
    side = min(max(bottom - top, right - left), *mask.shape)
    top, left = min(top, mask.shape[0] - side), min(left, mask.shape[1] - side)
    return picture[top : top + side, left : left + side]


def sheet(
    titles: Sequence[str], rows: Sequence[Sequence[np.ndarray]], captions: Sequence[str], cell: int = 320
) -> Image.Image:
    """Rows of pictures in columns under `titles`, a caption over each row."""
    pad, head = 10, 30
    height, width = head + len(rows) * (cell + head), pad + len(titles) * (cell + pad)
    canvas = np.full((height, width, 3), 255, np.uint8)

    def text(words: str, x: int, y: int) -> None:
        cv2.putText(canvas, words, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (40, 40, 40), 1, cv2.LINE_AA)

    lefts = [pad + column * (cell + pad) for column in range(len(titles))]
    for left, title in zip(lefts, titles, strict=True):
        text(title, left, 20)
    for index, (pictures, caption) in enumerate(zip(rows, captions, strict=True)):
        top = head + index * (cell + head) + head - 5
        text(caption, pad, top - 7)
        for left, picture in zip(lefts, pictures, strict=True):
            small = Image.fromarray(picture).resize((cell, cell), Image.Resampling.LANCZOS)
            canvas[top : top + cell, left : left + cell] = np.asarray(small)
    return Image.fromarray(canvas)
