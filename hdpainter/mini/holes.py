"""Free holes in toy scenes: where a person might add something, and what.

A hole is what somebody would paint who wants an object of a category to stand there: an ellipse, a box or the
blob of a brush around where it could be, on empty ground. All of it is a pure function of the scene and the
category.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from hdpainter.mini.world.canvas import Pen
from hdpainter.mini.world.objects import CATEGORIES, Category
from hdpainter.mini.world.toycoco import Scene, describe_scene

KINDS = ("ellipse", "box", "blob")
SHARES = (0.05, 0.2)  # of the picture
MARGIN = 0.02  # of the picture, that is kept free beside its borders
CLEARANCE = 0.02  # of the picture's side, to what is there already
TRIES = 60
FOOD, LAND = ("on a wooden table", "on grass", "on sand"), ("on grass", "on sand", "on snow", "on a road")
SKY = ("under the sky", "under the sunset")
WALL = ("in front of a brick wall", "in front of a wall", "in front of a blue wall")
PLACES: dict[str, tuple[str, ...]] = {
    "car": ("on a road", "on sand", "on snow"),
    "airplane": (*SKY, "under the night sky"),
    "bus": ("on a road", "on snow"),
    "boat": ("on water",),
    "traffic light": ("on a road",),
    "stop sign": ("on a road", "on grass", "on snow"),
    "umbrella": LAND,
    "sports ball": LAND,
    "kite": SKY,
    "bottle": ("on a wooden table", "on sand"),
    "cup": ("on a wooden table",),
    "clock": WALL,
    "vase": ("on a wooden table", "on grass"),
    "teddy bear": ("on a wooden table", "on grass", "on sand", "on snow"),
} | {name: FOOD for name in ("banana", "apple", "orange", "pizza", "donut", "cake")}
"""Where a category makes sense: parts of a background, by their captions."""


@dataclass(frozen=True)
class FreeHole:
    """A hole on empty ground of scene `index` of a split.

    mask: bool [size, size], True where to fill. prompt: the category with an article and perhaps a colour.
    """

    scene: Scene
    index: int
    mask: np.ndarray
    category: Category
    prompt: str


def free_holes(
    category: Category, size: int, split: str = "val", first: int = 0, sensible: bool = True
) -> Iterator[FreeHole]:
    """Holes for a category in scenes `first`, first + 1, ... that have room for one and nothing of the kind.

    sensible: only where such an object makes sense (`PLACES`); otherwise wherever the world would put one.
    """
    index = first
    while True:
        scene = describe_scene(split, index)
        if hole := free_hole(scene, index, category, size, sensible):
            yield hole
        index += 1


def free_hole(
    scene: Scene, index: int, category: Category, size: int, sensible: bool = True
) -> FreeHole | None:
    """A hole for a category in scene number `index`, None where there is no room or, if `sensible`, no place."""
    if any(item.category is category for item in scene.objects):
        return None
    ground = standing(scene, category)
    if ground is None or (
        sensible and not set(PLACES[category.name]) & set(ground_captions(scene, category))
    ):
        return None
    rng = np.random.default_rng((index, CATEGORIES.index(category)))
    reach = 2 * round(CLEARANCE * size) + 1
    visible = np.asarray(scene.visible_masks(size).any(0), np.uint8)
    taken = cv2.dilate(visible, np.ones((reach, reach), np.uint8)).astype(bool)
    for _ in range(TRIES):
        low, high, colour = _place(rng, category, ground)
        mask = _shape(rng, low * size, high * size, size)
        fits = low.min() >= MARGIN and SHARES[0] <= mask.mean() <= SHARES[1]
        if fits and not (mask & taken).any():
            words = f"{colour} {category.name}" if colour and rng.random() < 0.5 else category.name
            prompt = f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
            return FreeHole(scene, index, mask, category, prompt)
    return None


def ground_captions(scene: Scene, category: Category) -> tuple[str, ...]:
    """The captions of that part of the background before or on which a category belongs."""
    upright = category.place != "ground"
    return tuple(caption for caption in scene.background.captions if caption.startswith("on ") != upright)


def standing(scene: Scene, category: Category) -> tuple[float, float] | None:
    """The heights (unit coordinates) between which an object's lowest point may lie; None if there are none.

    What stands on the ground has it between the horizon and the lower edge, all else above the horizon.
    """
    horizon = scene.background.horizon
    low, high = (horizon + 0.06, 0.97) if category.place == "ground" else (0.15, horizon - 0.03)
    return (low, high) if low < high else None


def _place(
    rng: np.random.Generator, category: Category, ground: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray, str | None]:
    """Corners, low and high [2], of the box around a possible object in unit coordinates, and its colour word."""
    pen = Pen()
    colour = category.draw(pen, rng)
    shapes = pen.placed(0, 0, rng.uniform(0.13, 0.24))
    points = np.concatenate([shape.points for shape in shapes if shape.solid])
    extent = np.ptp(points, axis=0) * rng.uniform(1.1, 1.4)
    high = np.array([rng.uniform(*ends) for ends in ((MARGIN + extent[0], 1 - MARGIN), ground)])
    return high - extent, high, colour


def _shape(rng: np.random.Generator, low: np.ndarray, high: np.ndarray, size: int) -> np.ndarray:
    """A mask [size, size] of a random kind around the box from low to high, in pixels."""
    kind = KINDS[rng.integers(len(KINDS))]
    mask = np.zeros((size, size), np.uint8)
    if kind == "box":
        x0, y0, x1, y1 = np.round([*low, *high]).astype(int).tolist()
        mask[max(y0, 0) : y1, max(x0, 0) : x1] = 1
        return mask.astype(bool)
    angles = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    radius = np.full(len(angles), 1.15)
    if kind == "blob":  # of a brush: an ellipse with a few soft bumps
        for wave in (2, 3, 5):
            radius += rng.uniform(0, 0.25 / wave) * np.cos(wave * angles + rng.uniform(0, 2 * np.pi))
    circle = np.stack([np.cos(angles), np.sin(angles)], 1)
    outline = (low + high) / 2 + (high - low) / 2 * radius[:, None] * circle
    cv2.fillPoly(mask, [np.round(outline).astype(np.int32)], 1)
    return mask.astype(bool)
