"""What the diffusion models train on: crops of toy scenes with captions."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import cv2
import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from hdpainter.mini.scenes import SceneCache
from hdpainter.mini.training.base import most_detailed

Drawn = dict[str, np.ndarray]
Item = TypeVar("Item")
VARIANTS = 4


def pick(rng: np.random.Generator, items: Sequence[Item]) -> Item:
    """One of `items`."""
    return items[int(rng.integers(len(items)))]


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

    def draw(self, rng: np.random.Generator, captions: Sequence[str]) -> list[str]:
        """`VARIANTS` texts for a picture that may be called what `captions` says."""
        return [self._text(rng, captions) for _ in range(VARIANTS)]

    def tokens(self, texts: Sequence[Sequence[str]]) -> np.ndarray:
        """Tokens [B, VARIANTS, T] of the texts of B pictures."""
        return self.tokenize([text for own in texts for text in own]).reshape(len(texts), VARIANTS, -1)

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
        tokens = self.texts.tokens([self.texts.draw(rng, own) for own in captions])
        return {"images": np.stack(images), "tokens": tokens}


class DetailedCrops(SceneCrops):
    """Of three crops the most detailed: flat areas teach an upscaler little."""

    def crop(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, Sequence[str]]:
        crops = [super(DetailedCrops, self).crop(rng, size) for _ in range(3)]
        chosen = most_detailed(image for image, _ in crops)
        return next(crop for crop in crops if crop[0] is chosen)


class Source(Protocol):
    """What draws samples of a size."""

    def draw(self, rng: np.random.Generator, size: int, count: int) -> Drawn: ...


@dataclass
class Blocks(IterableDataset):
    """Endless blocks of `count` crops of one size, other ones in every worker."""

    source: Source
    size: int
    count: int
    seed: tuple[int, ...]

    def __iter__(self) -> Iterator[Drawn]:
        cv2.setNumThreads(1)
        worker = get_worker_info()
        rng = np.random.default_rng((*self.seed, self.size, worker.id if worker else 0))
        while True:
            yield self.source.draw(rng, self.size, self.count)
