"""What the inpainting model trains on: views of toy scenes with masks, and which words name what."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from hdpainter.mini.scenes import names
from hdpainter.mini.training.crops import Drawn, Texts, pick
from hdpainter.mini.training.masks import bounds, object_mask, random_mask
from hdpainter.mini.training.naming import OBJECTS, token_slots
from hdpainter.mini.world.toycoco import Scene, describe_scene

LATENT = 8  # pixels of a side of the f8 autoencoder's latents
SMALLEST = 0.005  # share of a view that an object must show for a hole to be made around it


@dataclass(frozen=True)
class View:
    """A square part of a scene, with what is said about it.

    image: RGB uint8 [s, s, 3]. seen: what is seen of each object, bool [objects, s, s]. captions: what it may
    be called. named: the category of each object of which these speak, None for the others.
    """

    image: np.ndarray
    seen: np.ndarray
    captions: Sequence[str]
    named: Sequence[str | None]

    def of(self, scene: Scene, number: int) -> "View":
        """The same, called by the name of one of its objects."""
        item = scene.objects[number]
        named = [item.category.name if i == number else None for i in range(len(scene.objects))]
        return View(self.image, self.seen, names(item.category.name, item.colour), named)


@dataclass(frozen=True)
class InpaintingViews:
    """Scenes, parts of them and single objects, each with a mask.

    scenes: how many of the training split there are; each is drawn at `side` pixels when its turn comes, and
    gives `views` samples.
    single: share of views that show one object and are called by its name.
    full: share of the masks that are everything.
    covering: share of those that cover one object, by whose name the view is called in half of the cases. All
    other masks are random.
    """

    texts: Texts
    scenes: int
    side: int = 256
    views: int = 1
    single: float = 0.5
    full: float = 0.25
    covering: float = 0.2

    def draw(self, rng: np.random.Generator, size: int, count: int) -> Drawn:
        """`count` samples: {"images": uint8 [count, size, size, 3], "masks": bool [count, size, size], ...}.

        Also "tokens": int [count, VARIANTS, T] and, see `hdpainter.mini.training.naming`, "slots": int8 of the
        same shape and "seen": float16 [count, OBJECTS, size / 8, size / 8].
        """
        samples = [sample for _ in range(-(-count // self.views)) for sample in self._scene(rng, size)]
        views, masks = zip(*samples[:count], strict=True)
        texts = [self.texts.draw(rng, view.captions) for view in views]
        slots = [
            [token_slots(text, view.named) for text in own] for view, own in zip(views, texts, strict=True)
        ]
        return {
            "images": np.stack([view.image for view in views]),
            "masks": np.stack(masks),
            "tokens": self.texts.tokens(texts),
            "slots": np.array(slots),
            "seen": np.stack([shares(view.seen, size // LATENT) for view in views]),
        }

    def _scene(self, rng: np.random.Generator, size: int) -> list[tuple[View, np.ndarray]]:
        """`views` samples of a random scene."""
        scene = describe_scene("train", int(rng.integers(self.scenes)))
        image, masks = scene.render(self.side), scene.visible_masks(self.side)
        return [self._sample(rng, scene, image, masks, size) for _ in range(self.views)]

    def _sample(
        self, rng: np.random.Generator, scene: Scene, image: np.ndarray, masks: np.ndarray, size: int
    ) -> tuple[View, np.ndarray]:
        chosen = pick(rng, np.flatnonzero(masks.any((1, 2))).tolist())
        single = rng.random() < self.single
        x, y, side = (self._around if single else self._anywhere)(rng, bounds(masks[chosen]), size)
        part = np.s_[y : y + side, x : x + side]
        seen = np.stack([resized(mask[part].astype(np.float32), size) >= 0.5 for mask in masks])
        view = View(
            resized(image[part], size), seen, scene.captions, [item.category.name for item in scene.objects]
        )
        if single:
            view = view.of(scene, chosen)
        kind = rng.random()
        if kind < self.full:
            return view, np.ones((size, size), bool)
        large = [i for i, own in enumerate(seen) if own.mean() >= SMALLEST and (not single or i == chosen)]
        if kind < self.full + self.covering and large:
            hidden = pick(rng, large)
            if not single and rng.random() < 0.5:
                view = view.of(scene, hidden)
            return view, object_mask(rng, seen[hidden])
        return view, random_mask(rng, size, 0.0)

    def _around(self, rng: np.random.Generator, box: Sequence[int], size: int) -> tuple[int, int, int]:
        """Corner and side of a square around an object, which is then seen in about its own resolution."""
        x0, y0, x1, y1 = box
        side = int(np.clip(max(x1 - x0, y1 - y0) * rng.uniform(1.05, 2), 0.875 * size, self.side))
        corner = (np.array([x0 + x1, y0 + y1]) - side) / 2 + rng.uniform(-0.1, 0.1, 2) * side
        x, y = np.clip(corner, 0, self.side - side).astype(int)
        return int(x), int(y), side

    def _anywhere(self, rng: np.random.Generator, box: Sequence[int], size: int) -> tuple[int, int, int]:
        """Corner and side of anything from a crop of `size` to the whole scene, rather near an object."""
        x0, y0, x1, y1 = box
        side = int(rng.integers(size, self.side + 1))
        corner = rng.uniform(0, self.side - side + 1, 2)
        if rng.random() < 0.6:
            corner = (np.array([x0 + x1, y0 + y1]) - side) / 2 + rng.uniform(-0.25, 0.25, 2) * side
        x, y = np.clip(corner, 0, self.side - side).astype(int)
        return int(x), int(y), side


def resized(picture: np.ndarray, size: int) -> np.ndarray:
    """A square picture or map at another size: the mean of what falls into each pixel."""
    if len(picture) == size:
        return picture
    return cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)


def shares(seen: np.ndarray, size: int) -> np.ndarray:
    """Which share of each pixel shows each object: bool [objects, s, s] to float16 [OBJECTS, size, size]."""
    maps = np.zeros((OBJECTS, size, size), np.float16)
    for number, mask in enumerate(seen):
        maps[number] = resized(mask.astype(np.float32), size)
    return maps
