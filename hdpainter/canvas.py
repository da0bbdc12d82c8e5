"""A picture while it is painted: all of it, or window by window and hole by hole."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from hdpainter.images import Pixels, Source
from hdpainter.inputs import prompts_of, read
from hdpainter.masks import Mask, binarize, pad_to_multiple, prepare, stage_size
from hdpainter.settings import Method
from hdpainter.windows import Window, holes, window


@dataclass(frozen=True)
class Task:
    """What is painted at once: what stage 1 and stage 2 see of it.

    window: its place in the picture. original: uint8 [H, W, 3] of the window; mask: bool [H, W]. size: (h, w) of
    stage 1 before padding; image, fill: original and mask at stage 1's padded size. label: " 2 of 3", of a hole.
    """

    window: Window
    original: Pixels
    mask: Mask
    prompt: str
    seed: int
    size: tuple[int, int]
    image: Pixels
    fill: Mask
    label: str = ""


class Canvas:
    """One picture, and the tasks to be painted on it in their order.

    pixels: uint8 [H, W, 3], as far as it is painted. mask: bool [H, W], all that is filled. info: the colour
    profile, if any. prompts: one for each task.

    Args: as for `HDPainter`; the method says how image and mask are read, and how they are divided.
    Raises UserError for bad input.
    """

    def __init__(self, image: Source, mask: Source | None, prompt: str, seed: int, method: Method):
        picture, self.grey = read(image, mask, method.input, method.masks.threshold)
        self.pixels: Pixels = np.array(picture)
        self.mask = binarize(self.grey, method.masks.threshold)
        self.info: Mapping[Any, Any] = picture.info
        self.prompt, self.seed, self.method = prompt, seed, method
        self.prompts = prompts_of(self.mask, prompt, method.input)
        self.numbers = holes(self.mask)[0] if len(self.prompts) > 1 else None

    def task(self, number: int, long_side: int, multiple: int) -> Task:
        """The task of that number, from 0, on what is painted so far.

        long_side, multiple: of stage 1, as `PipelineSpec` has them; `long_side` is the window's.
        """
        method, grey = self.method, self.grey
        if self.numbers is not None:
            grey = np.where(self.numbers == number, grey, np.uint8(0))
        where = window(grey >= method.masks.threshold, method.input.only_masked)
        original, grey = self.pixels[where], grey[where]
        height, width = size = stage_size(grey.shape[0], grey.shape[1], long_side)
        small = np.array(Image.fromarray(original).resize((width, height), Image.Resampling.BICUBIC))
        return Task(
            where,
            original,
            binarize(grey, method.masks.threshold),
            self.prompts[number],
            (self.seed + number) % 2**32,  # or alike holes would be filled alike
            size,
            pad_to_multiple(small, multiple, method.masks.pad),
            prepare(grey, size, multiple, method.masks),
            f" {number + 1} of {len(self.prompts)}" if len(self.prompts) > 1 else "",
        )

    def paste(self, task: Task, finished: Pixels) -> None:
        """Put a finished task in its place; the tasks that follow see it."""
        self.pixels[task.window] = finished
