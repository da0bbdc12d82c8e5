"""Toy COCO: drawn scenes with MSCOCO's categories, captions and annotation files.

A `Scene` is a description in unit coordinates, a pure function of (split, index); `render` and
`visible_masks` rasterise it at any size. MSCOCO files (`annotations/instances_val2017.json`,
`annotations/captions_val2017.json` and `val2017/*.png`) are written by

    python -m hdpainter.mini.world.toycoco --split val --images 500 --size 256 --out DIR
"""

import argparse
import json
import multiprocessing
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from hdpainter.images import save_png
from hdpainter.mini.world.backgrounds import Background, draw_background
from hdpainter.mini.world.canvas import Pen, Shape, rasterise, silhouette
from hdpainter.mini.world.objects import CATEGORIES, Category
from ldm.util import UserError

SPLITS = ("train", "val")
CAPTIONS_PER_SCENE = 3
OBJECT_COUNTS = (0.3, 0.36, 0.23, 0.11)  # probabilities of 1, 2, 3, 4 objects
IMAGES_PER_SPLIT = 10_000_000  # image ids of val start here, so no id is in both splits


@dataclass(frozen=True)
class SceneObject:
    """One object: its category, the colour word a caption may use, its shapes, its shadow."""

    category: Category
    colour: str | None
    shapes: tuple[Shape, ...]
    shadow: tuple[Shape, ...] = ()


@dataclass(frozen=True)
class Scene:
    """A described scene: a background, objects from back to front, and captions of the whole scene."""

    background: Background
    objects: tuple[SceneObject, ...]
    captions: tuple[str, ...]

    def render(self, size: int) -> np.ndarray:
        """The picture as RGB uint8 [size, size, 3]."""
        parts = (shape for o in self.objects for shape in (*o.shadow, *o.shapes))
        return rasterise([*self.background.drawing, *parts], size)

    def visible_masks(self, size: int) -> np.ndarray:
        """What is seen of every object, as bool [objects, size, size]: nearer objects hide farther ones."""
        masks = np.zeros((len(self.objects), size, size), bool)
        hidden = np.zeros((size, size), bool)
        for i in reversed(range(len(self.objects))):
            whole = silhouette(self.objects[i].shapes, size)
            masks[i] = whole & ~hidden
            hidden |= whole
        return masks


def scene_seed(split: str, index: int) -> np.random.SeedSequence:
    """The seed of a scene; different splits share none."""
    if split not in SPLITS:
        raise UserError(f"split {split!r} is unknown; use one of: {', '.join(SPLITS)}")
    return np.random.SeedSequence((SPLITS.index(split), index))


def describe_scene(split: str, index: int) -> Scene:
    """The scene number `index` of a split."""
    rng = np.random.Generator(np.random.PCG64(scene_seed(split, index)))
    background = draw_background(rng)
    count = 1 + int(rng.choice(len(OBJECT_COUNTS), p=OBJECT_COUNTS))
    categories = [CATEGORIES[i] for i in rng.permutation(len(CATEGORIES))[:count]]
    placed = sorted(_layout(rng, categories, background.horizon), key=lambda p: p[0])
    objects = tuple(o for _, o in placed)
    captions = tuple(_caption(rng, objects, background) for _ in range(CAPTIONS_PER_SCENE))
    return Scene(background, objects, captions)


def _layout(
    rng: np.random.Generator, categories: Sequence[Category], horizon: float
) -> Iterator[tuple[float, SceneObject]]:
    """Yield (depth, object) for every category that finds room; a smaller depth is farther away."""
    taken: list[tuple[float, float, float]] = []
    for category in categories:
        for _ in range(12):
            r = rng.uniform(0.13, 0.3) if len(categories) > 1 else rng.uniform(0.17, 0.38)
            x = rng.uniform(0.55 * r, 1 - 0.55 * r)
            y = _height(rng, category.place, r, horizon)
            if all(np.hypot(x - u, y - v) > 0.8 * (r + q) for u, v, q in taken):
                break
        else:
            continue
        taken.append((x, y, r))
        standing = category.place == "ground" and 0 < horizon < 1
        yield y + 0.8 * r if standing else y, _draw_object(rng, category, x, y, r, shadow=standing)


def _height(rng: np.random.Generator, place: str, r: float, horizon: float) -> float:
    low, high = 0.7 * r, 1 - 0.7 * r
    if place == "ground" and 0 < horizon < 1:  # the base stands below the horizon
        low = min(max(low, horizon - 0.7 * r), high)
    elif place in ("air", "wall") and horizon > 0.3:
        high = max(min(high, horizon + 0.1), low)
    return rng.uniform(low, high)


def _draw_object(
    rng: np.random.Generator, category: Category, x: float, y: float, r: float, shadow: bool
) -> SceneObject:
    flip = category.flips and rng.random() < 0.5
    angle = rng.uniform(-category.tilt, category.tilt)
    aspect = rng.uniform(1 - category.stretch, 1 + category.stretch)
    pen = Pen()
    colour = category.draw(pen, rng)
    shapes = pen.placed(x, y, r, angle, aspect, flip)
    return SceneObject(category, colour, shapes, _contact_shadow(shapes, r) if shadow else ())


def _contact_shadow(shapes: Sequence[Shape], r: float) -> tuple[Shape, ...]:
    """Two flat translucent ellipses under the lowest part of an object."""
    points = np.concatenate([shape.points for shape in shapes if shape.solid])
    floor = points[:, 1].max()
    base = points[points[:, 1] > floor - 0.3 * r, 0]
    middle, half = (base.max() + base.min()) / 2, (base.max() - base.min()) / 2 + 0.12 * r
    pen = Pen()
    for scale in (1.15, 0.85):
        pen.ellipse(
            middle, floor - 0.02 * r, half * scale, 0.11 * r * scale, (20, 24, 40), opacity=0.16, solid=False
        )
    return pen.placed(0, 0, 1)


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _caption(rng: np.random.Generator, objects: Sequence[SceneObject], background: Background) -> str:
    names = [
        f"{o.colour} {o.category.name}" if o.colour and rng.random() < 0.5 else o.category.name
        for o in objects
    ]
    bare = rng.random() < 0.2  # some captions are as short as a label
    phrases = [names[i] if bare else _with_article(names[i]) for i in rng.permutation(len(names))]
    things = phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"
    prefix = "" if bare else ("", "", "a photo of ", "a picture of ")[rng.integers(4)]
    where = ""
    if rng.random() < 0.7:
        where = " " + background.captions[rng.integers(len(background.captions))]
    return f"{prefix}{things}{where}"


def polygons(mask: np.ndarray) -> list[list[float]]:
    """Outlines of a boolean mask's parts as MSCOCO polygons [x0, y0, x1, y1, ...] in pixels."""
    scale = 2  # traced on a doubled mask, so that outlines run a quarter of a pixel inside the pixels' edges
    fine = mask.astype(np.uint8).repeat(scale, 0).repeat(scale, 1)
    find = partial(cv2.findContours, fine, cv2.RETR_EXTERNAL)
    (rough, _), (exact, _) = find(cv2.CHAIN_APPROX_TC89_L1), find(cv2.CHAIN_APPROX_SIMPLE)
    # A part of a pixel or two has no rough outline.
    contours = [a if len(a) >= 3 else b for a, b in zip(rough, exact, strict=True)]
    outlines = [(c[:, 0, :] + 0.5) / scale for c in contours]
    return [np.round(points, 2).ravel().tolist() for points in outlines]


def annotations(scene: Scene, size: int) -> list[dict]:
    """MSCOCO instance annotations (without ids) of what is visible at `size` pixels."""
    found = []
    for item, mask in zip(scene.objects, scene.visible_masks(size), strict=True):
        outline = polygons(mask)
        if not outline:
            continue
        xy = np.concatenate([np.reshape(p, (-1, 2)) for p in outline])
        low, extent = xy.min(0), np.ptp(xy, axis=0)  # as MSCOCO's boxes: of the polygons
        found.append(
            {
                "category_id": item.category.id,
                "segmentation": outline,
                "area": float(mask.sum()),
                "bbox": np.round([*low, *extent], 2).tolist(),
                "iscrowd": 0,
            }
        )
    return found


def image_id(split: str, index: int) -> int:
    """The MSCOCO image id of a scene: positive, and different for every (split, index)."""
    return SPLITS.index(split) * IMAGES_PER_SPLIT + index + 1


def _write_image(index: int, split: str, size: int, folder: Path) -> tuple[dict, list[dict], tuple[str, ...]]:
    scene, number = describe_scene(split, index), image_id(split, index)
    name = f"{number:012d}.png"
    save_png(Image.fromarray(scene.render(size)), folder / name)
    return (
        {"id": number, "file_name": name, "width": size, "height": size},
        annotations(scene, size),
        scene.captions,
    )


def export(split: str, images: int, size: int, out: Path, workers: int = 1) -> None:
    """Write scenes 0 .. images-1 of a split as an MSCOCO folder; `out` appears only when it is complete.

    Raises UserError for an unknown split, sizes that make no sense or an existing `out`.
    """
    scene_seed(split, 0)
    if images < 1 or size < 16:
        raise UserError(f"cannot draw {images} images of {size} pixels; give at least 1 image of 16 pixels")
    if out.exists():
        raise UserError(f"{out} already exists; name a new folder with --out")
    partial_out = out.with_name(out.name + ".part")
    shutil.rmtree(partial_out, ignore_errors=True)
    pictures = partial_out / f"{split}2017"
    pictures.mkdir(parents=True)
    write = partial(_write_image, split=split, size=size, folder=pictures)
    if workers > 1:
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            rows = pool.map(write, range(images), chunksize=32)
    else:
        rows = [write(i) for i in range(images)]
    info = {"description": f"toy COCO, {split}, {size} px", "version": "1.0", "year": 2026}
    pictures_info = [row[0] for row in rows]
    instances = [{"image_id": image["id"], **a} for image, found, _ in rows for a in found]
    captions = [{"image_id": image["id"], "caption": c} for image, _, texts in rows for c in texts]
    for entries in (instances, captions):
        for i, entry in enumerate(entries):
            entry["id"] = SPLITS.index(split) * IMAGES_PER_SPLIT + i + 1
    categories = [{"id": c.id, "name": c.name, "supercategory": c.supercategory} for c in CATEGORIES]
    common = {"info": info, "licenses": [], "images": pictures_info}
    files = {
        "instances": {**common, "annotations": instances, "categories": categories},
        "captions": {**common, "annotations": captions},
    }
    (partial_out / "annotations").mkdir()
    for kind, content in files.items():
        (partial_out / "annotations" / f"{kind}_{split}2017.json").write_text(json.dumps(content))
    partial_out.rename(out)


def main(argv: Sequence[str] | None = None) -> int:
    """Draw a split as an MSCOCO folder."""
    parser = argparse.ArgumentParser(prog="python -m hdpainter.mini.world.toycoco", description=main.__doc__)
    parser.add_argument("--split", choices=SPLITS, default="val", help="which scenes (default: %(default)s)")
    parser.add_argument("--images", type=int, default=500, help="how many (default: %(default)s)")
    parser.add_argument("--size", type=int, default=256, help="pixels of a side (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="the folder to make")
    args = parser.parse_args(argv)
    start = time.perf_counter()
    try:
        export(args.split, args.images, args.size, args.out, args.workers)
    except UserError as error:
        print(f"toycoco: error: {error}", file=sys.stderr)
        return 2
    rate = args.images / (time.perf_counter() - start)
    print(f"{args.images} images of {args.split} in {args.out} ({rate:.0f} images per second)")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
