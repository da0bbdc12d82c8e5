"""What the diffusion models train on: crops of toy scenes with captions, and masks for the inpainting model."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from hdpainter.mini.scenes import SceneCache, names
from hdpainter.mini.training.base import most_detailed
from hdpainter.mini.training.masks import random_mask

Drawn = dict[str, np.ndarray]
VARIANTS = 4


def pick(rng: np.random.Generator, items: Sequence[str]) -> str:
    """One of `items`."""
    return items[rng.integers(len(items))]


@dataclass(frozen=True)
class Texts:
    """What is said about a picture: `VARIANTS` texts for each, as tokens, one of which is taken at every use.

    tokenize: texts -> int [B, T]. suffixes: one of these follows each caption, "" for none. dropped: probability
    that a caption is replaced by one of `nulls`.
    """

    tokenize: Callable[[list[str]], np.ndarray]
    suffixes: Sequence[str]
    dropped: float
    nulls: Sequence[str]

    def tokens(self, rng: np.random.Generator, captions: Sequence[Sequence[str]]) -> np.ndarray:
        """Tokens [B, VARIANTS, T] of pictures that may be called what `captions` has for them."""
        texts = [self._text(rng, names) for names in captions for _ in range(VARIANTS)]
        return self.tokenize(texts).reshape(len(captions), VARIANTS, -1)

    def _text(self, rng: np.random.Generator, names: Sequence[str]) -> str:
        if rng.random() < self.dropped:
            return pick(rng, self.nulls)
        suffix = pick(rng, self.suffixes)
        name = pick(rng, names)
        return f"{name}, {suffix}" if suffix else name


class SceneCrops:
    """Random crops of cached scenes."""

    def __init__(self, scenes: SceneCache, texts: Texts):
        self.scenes, self.texts = scenes, texts

    def crop(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, Sequence[str]]:
        """A crop of a random scene, more often than not around one of its objects, and the scene's captions."""
        i = int(rng.integers(len(self.scenes.images)))
        image, objects = self.scenes.images[i], self.scenes.records[i]["objects"]
        room = len(image) - size
        x, y = rng.integers(room + 1, size=2)
        if objects and rng.random() < 0.6:
            x0, y0, x1, y1 = np.array(objects[rng.integers(len(objects))]["box"]) * len(image)
            x, y = (np.array([x0 + x1, y0 + y1]) - size) / 2 + rng.uniform(-0.25, 0.25, 2) * size
            x, y = int(np.clip(x, 0, room)), int(np.clip(y, 0, room))
        return image[y : y + size, x : x + size], self.scenes.records[i]["captions"]

    def draw(self, rng: np.random.Generator, size: int, count: int) -> Drawn:
        """`count` crops: {"images": uint8 [count, size, size, 3], "tokens": int [count, VARIANTS, T], ...}."""
        images, captions = zip(*(self.crop(rng, size) for _ in range(count)), strict=True)
        return {"images": np.stack(images), "tokens": self.texts.tokens(rng, captions)}


class DetailedCrops(SceneCrops):
    """Of three crops the most detailed: flat areas teach an upscaler little."""

    def crop(self, rng, size):
        crops = [super(DetailedCrops, self).crop(rng, size) for _ in range(3)]
        chosen = most_detailed(image for image, _ in crops)
        return next(crop for crop in crops if crop[0] is chosen)


class InpaintingCrops(SceneCrops):
    """Scenes, parts of them and single objects, each with a mask.

    single: share of pictures that show one object and are captioned with its name. full: share of the masks that
    are everything.
    """

    def __init__(self, scenes: SceneCache, texts: Texts, single: float, full: float):
        super().__init__(scenes, texts)
        self.single, self.full = single, full

    def crop(self, rng, size):
        """Anything from such a crop to the whole scene, reduced to `size`: what is in it, its caption tells."""
        window = int(rng.integers(size, self.scenes.images.shape[1] + 1))
        image, captions = super().crop(rng, window)
        return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA), captions

    def object(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, Sequence[str]]:
        """A random object with what is around it, in about its own resolution, and its names."""
        i = int(rng.integers(len(self.scenes.images)))
        image, objects = self.scenes.images[i], self.scenes.records[i]["objects"]
        found = pick(rng, objects)
        x0, y0, x1, y1 = np.array(found["box"]) * len(image)
        side = max(x1 - x0, y1 - y0) * rng.uniform(1.05, 2)
        side = int(np.clip(side, 0.875 * size, len(image)))
        x, y = (np.array([x0 + x1, y0 + y1]) - side) / 2 + rng.uniform(-0.1, 0.1, 2) * side
        x, y = np.clip((x, y), 0, len(image) - side).astype(int)
        window = image[y : y + side, x : x + side]
        return cv2.resize(window, (size, size), interpolation=cv2.INTER_AREA), names(found)

    def draw(self, rng, size, count):
        """Also {"masks": bool [count, size, size]}."""
        crops = [(self.object if rng.random() < self.single else self.crop)(rng, size) for _ in range(count)]
        images, captions = zip(*crops, strict=True)
        masks = np.stack([random_mask(rng, size, self.full) for _ in range(count)])
        return {"images": np.stack(images), "masks": masks, "tokens": self.texts.tokens(rng, captions)}


@dataclass
class Blocks(IterableDataset):
    """Endless blocks of `count` crops of one size, other ones in every worker."""

    crops: SceneCrops
    size: int
    count: int
    seed: tuple[int, ...]

    def __iter__(self) -> Iterator[Drawn]:
        cv2.setNumThreads(1)
        worker = get_worker_info()
        rng = np.random.default_rng((*self.seed, self.size, worker.id if worker else 0))
        while True:
            yield self.crops.draw(rng, self.size, self.count)
