"""A painter that needs no model, so that the ways of using one can be tested quickly."""

import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from hdpainter.inputs import parts_of, read

MODEL = {
    "name": "fake",
    "size": 16,
    "multiple": 8,
    "inpainting": {"sha256": "1"},
    "upscaler": {"sha256": "2"},
}


@dataclass
class FakeResult:
    image: Image.Image
    metadata: dict


class FakePainter:
    """Fills each mask with a colour that depends on prompt, seed and settings.

    delay: seconds for each of the 4 "steps" of a call. fail: (prompts) -> exception or None. diary: a file that
    gets a line for each picture made, also from other processes.
    """

    def __init__(self, delay=0.0, fail=lambda prompts: None, diary=None):
        self.delay, self.fail, self.diary = delay, fail, diary
        self.calls = []

    def __call__(self, image, mask, prompt, *, seed, progress, **settings):
        self.calls.append(list(prompt))
        method = settings["method"]
        inputs = [read(*pair, method.input, method.masks.threshold) for pair in zip(image, mask, strict=True)]
        for step in range(1, 5):
            time.sleep(self.delay)
            progress("fake", step, 4)
        if error := self.fail(list(prompt)):
            raise error
        results = []
        for (picture, grey), text, number in zip(inputs, prompt, seed, strict=True):
            colour = hashlib.sha256(repr((text, number, sorted(settings.items()))).encode()).digest()[:3]
            pixels = np.array(picture)
            pixels[grey >= method.masks.threshold] = list(colour)
            mask = grey >= method.masks.threshold
            facts = {"mask_share": float(mask.mean()), "mask_parts": parts_of(mask)}
            facts |= {"seed": number, "seconds": self.delay * 4}
            results.append(FakeResult(Image.fromarray(pixels), facts))
        if self.diary:
            with self.diary.open("a") as file:
                file.writelines(f"{os.getpid()} {text}\n" for text in prompt)
        return results


def make_picture(path: Path, size=(24, 16), seed=0) -> Path:
    """A photo of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def make_mask(path: Path, size=(24, 16)) -> Path:
    """A mask with its lower right quarter to fill."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros(size[::-1], dtype=np.uint8)
    mask[size[1] // 2 :, size[0] // 2 :] = 255
    Image.fromarray(mask).save(path)
    return path
